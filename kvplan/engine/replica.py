"""One engine instance: the core's loop around the scheduler, and the clock.

Steps in which nothing is decided are left to ``coasting``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import nextafter
from typing import TYPE_CHECKING

from kvplan.engine.arrivals import Arrivals, arrivals_of, serve, tell_steps
from kvplan.engine.coasting import coast
from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck, InvalidLatency
from kvplan.engine.frontend import rejection
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder, RequestRow, SeriesPoint, decision_line
from kvplan.engine.scheduler_vllm import VllmScheduler
from kvplan.engine.watchdog import Watchdog
from kvplan.traces.request import Request

if TYPE_CHECKING:
    from kvplan.engine.live import LiveRequest
    from kvplan.engine.patience import Deadlines, Patience

_NEVER = float("inf")


class Replica:
    """A vLLM engine with one full-attention cache group.

    Args:
        config: engine options.
        latency: how long a step takes.
        recorder: where everything that happens is written.
    """

    hears_every_step = False
    """Whether something happens with every step delivered, not only with outputs that end or are counted."""

    def __init__(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> None:
        self.config = config
        self.latency = latency
        self.recorder = recorder
        self.watchdog = Watchdog(config)
        self.logging = recorder.on_decision is not None
        self.scheduler = self.make_scheduler()
        self.clock = 0.0
        self._device_free = 0.0
        self.in_flight: deque[tuple[StepPlan, float]] = deque()
        """Steps planned and not delivered yet, with the times at which they end."""
        # Async scheduling keeps two batches in the queue: one runs, the next one is already planned.
        self._depth = 2 if config.async_scheduling else 1
        self.stops = self.stopped = False
        """See ``Stepped``."""
        self.gives_up_s = _NEVER
        """No client gives up before."""
        self._deadlines: Deadlines[LiveRequest] | None = None

    def make_scheduler(self) -> VllmScheduler:
        """The scheduler of this instance, which knows its options and where it records by now."""
        return VllmScheduler(self.config, keep_schedule=self.logging)

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """Serve the requests, which arrive in the order given (arrival times must not fall)."""
        arrivals = arrivals_of(requests, self.recorder)
        tell_steps(self, arrivals)
        serve(self, arrivals)

    def expect(self, patience: Patience) -> None:
        """See ``Stepped``."""
        from kvplan.engine.patience import Deadlines

        self._deadlines = Deadlines(patience)

    def push(self, request: Request) -> None:
        """A request arrives; ``advance`` must have been called up to its arrival."""
        self.recorder.totals.requests += 1
        reason = self.rejection(request)
        if reason is not None:
            self.recorder.rejected(request.id, reason)
            return
        scheduler = self.scheduler
        if request.arrival_s > self.clock and not scheduler.has_requests and not self.in_flight:
            self.clock = request.arrival_s
        live = scheduler.live(request)
        scheduler.add(live)
        if self._deadlines is not None:
            self._deadlines.watch(live)
            self.gives_up_s = self._deadlines.next_s
            if self.clock > self.gives_up_s:  # it came during a step, and its client has gone since
                self.give_up(self.clock, ())

    def rejection(self, request: Request) -> str | None:
        """Why the front end turns a request away, or ``None``."""
        return rejection(request, self.config)

    @property
    def requests(self) -> int:
        """Requests it has, running and waiting."""
        return len(self.scheduler.running) + len(self.scheduler.waiting)

    @property
    def used_blocks(self) -> int:
        """Blocks that running requests hold."""
        return self.scheduler.pool.usable - self.scheduler.free_blocks

    def prompt_blocks_of(self, request: Request) -> int:
        """Blocks of the scheduler that the request's prompt fills."""
        return -(-request.prompt_tokens // self.scheduler.block_size)

    def cached_blocks_of(self, request: Request) -> int:
        """Blocks of the request's prompt that are in the prefix cache; looking changes nothing."""
        return self.scheduler.found_blocks(request)

    def point(self, now: float) -> SeriesPoint:
        """The state as the series has it."""
        scheduler = self.scheduler
        return SeriesPoint(
            now, self.used_blocks, scheduler.pool.cached, len(scheduler.running), len(scheduler.waiting),
            scheduler.queried_tokens, scheduler.hit_tokens, scheduler.preemptions,
        )  # fmt: skip

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return self.scheduler.has_requests or bool(self.in_flight)

    @property
    def works(self) -> bool:
        """Whether somebody runs, or waits and may be let in."""
        return bool(self.scheduler.running or self.scheduler.waiting.items)

    @property
    def ends_s(self) -> float:
        """When the first step in flight ends; infinite without one."""
        return self.in_flight[0][1] if self.in_flight else _NEVER

    def advance(self, until: float) -> None:
        """Go on until the clock is at ``until`` or later, or nothing is left to do; see also ``stops``.

        A step is planned with the requests that have arrived when it is planned, so whoever pushes a
        request at time t advances to t first.
        """
        scheduler, in_flight, depth = self.scheduler, self.in_flight, self._depth
        clock, device_free = self.clock, self._device_free
        self.stopped = False
        while clock < until:
            if (
                scheduler.running
                or scheduler.waiting.items
                or self.owes
                or (self.polls and self.asks and in_flight)
            ):
                if not self.logging and not scheduler.undecided():
                    clock, device_free, until = self._coast(clock, device_free, until)
                    if self.stopped:
                        break
                    if clock >= until or not scheduler.has_requests:
                        continue
                scheduler.in_flight = 1 if in_flight and in_flight[-1][0].batch.scheduled_tokens else 0
                plan = scheduler.schedule()
                end = self.launch(plan, clock, device_free)
                if plan.batch.scheduled_tokens:
                    device_free = end
                elif not plan.preempted and not self.goes_on(plan):
                    self._nothing_fits(clock)
                    break
                until = self.planned(plan, clock, until)
                counts = plan.batch.scheduled_tokens or self.polls
                if counts or plan.preempted:
                    in_flight.append((plan, end))
                if counts and len(in_flight) < depth:
                    continue
            elif not in_flight:
                break
            plan, end = in_flight.popleft()
            if end > clock:
                clock = end
            if clock > self.gives_up_s:
                self.give_up(clock, (plan, *(flying for flying, _ in in_flight)))
            self.deliver(plan, clock)
            if (plan.finish and self.stops) or self.stopped:
                self.stopped = True
                break
        self.clock, self._device_free = clock, device_free

    @property
    def polls(self) -> bool:
        """Whether steps without a token count, too: they may tell what has come meanwhile."""
        return False

    @property
    def hears(self) -> bool:
        """Whether something has come that its next step finds."""
        return False

    @property
    def expects_blocks(self) -> bool:
        """Whether blocks come back that no running request holds: that may end a storm of preemptions."""
        return False

    @property
    def owes(self) -> bool:
        """Whether a step is due though nobody runs or waits."""
        return False

    @property
    def asks(self) -> bool:
        """Whether it asks its scheduler for steps at all."""
        return self.scheduler.has_requests or self.owes or self.expects_blocks

    def launch(self, plan: StepPlan, clock: float, device_free: float) -> float:
        """A step planned at ``clock`` begins when the device is free; returns when it ends."""
        if not plan.batch.scheduled_tokens:
            return clock
        return (clock if clock > device_free else device_free) + self.step_seconds(plan)

    def goes_on(self, plan: StepPlan) -> bool:
        """Whether this step, in which nothing can be computed, may be followed by another one."""
        return bool(self.in_flight)

    def _coast(self, clock: float, device_free: float, until: float) -> tuple[float, float, float]:
        """Steps in which nothing is decided; ``coasting.coast``."""
        if self.gives_up_s >= until:
            return coast(self, clock, device_free, until)
        # Whoever gives up does so between two steps, before the outputs of the first one are delivered.
        noticed = nextafter(self.gives_up_s, _NEVER)
        clock, device_free, reached = coast(self, clock, device_free, noticed)
        return clock, device_free, until if reached == noticed else reached

    def give_up(self, clock: float, plans: Iterable[StepPlan]) -> bool:
        """Drop the requests of clients who gave up before ``clock``, also from steps not delivered yet.

        Returns whether there were any.
        """
        assert self._deadlines is not None
        passed = self._deadlines.passed(clock)
        for deadline_s, request in passed:
            for plan in plans:
                plan.drop(request)
            self.scheduler.abort(request)
            self.recorder.timed_out(request.request.id, deadline_s)
            self.stopped = self.stops
        self.gives_up_s = self._deadlines.next_s
        return bool(passed)

    # -- bookkeeping ------------------------------------------------------------------------------------

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        """A step was planned at ``clock``; returns the time to go on until, now that it is known."""
        self.record(plan, clock)
        return until

    def _nothing_fits(self, clock: float) -> None:
        """Requests wait, nothing runs and none of them can be admitted.

        Raises:
            EngineStuck: nothing will ever change that.
        """
        raise EngineStuck(clock, self.scheduler.waiting.head().request.id)

    def step_seconds(self, plan: StepPlan) -> float:
        """How long the planned step takes.

        Raises:
            InvalidLatency: the latency model answered with no time.
        """
        seconds = self.latency.step_seconds(plan.batch)
        if not 0.0 <= seconds < _NEVER:
            raise InvalidLatency(seconds, self.recorder.totals.steps)
        return seconds

    def record(self, plan: StepPlan, clock: float) -> None:
        """Write down a step planned at ``clock``: peaks, its decision line, a point of the time series."""
        recorder, totals, scheduler = self.recorder, self.recorder.totals, self.scheduler
        pool = scheduler.pool
        running, waiting = len(scheduler.running), len(scheduler.waiting)
        recorder.occupancy(pool.usable - pool.blank - pool.cached, running, waiting)
        for request in plan.admitted:
            request.scheduled_s = clock
        if plan.preempted or self.watchdog.fruitless:
            victim = plan.preempted[-1].request.id if plan.preempted else None
            sampled = plan.batch.sampled_requests
            self.watchdog.planned(sampled, victim, clock, expected=self.expects_blocks)
        if not plan.batch.scheduled_tokens and not plan.preempted:
            return
        if recorder.on_decision is not None:
            scheduled = ((request.request.id, tokens) for request, tokens in plan.scheduled)
            preempted = (request.request.id for request in plan.preempted)
            recorder.on_decision(decision_line(scheduled, scheduler.free_blocks, running, waiting, preempted))
        if totals.steps % recorder.series_stride == 0:
            self.add_point(clock)
        totals.steps += 1

    def add_point(self, clock: float) -> None:
        """The state after planning a step at ``clock``, for the time series."""
        self.recorder.point(self.point(clock))

    def deliver(self, plan: StepPlan, clock: float) -> None:
        """An executed step's tokens reach their requests at ``clock``; those it finishes get their rows."""
        for request in plan.first:
            request.first_token_s = clock
        if plan.finish or plan.samples or self.hears_every_step:
            self.scheduler.deliver(plan)
        for request in plan.finish:
            facts = request.request
            if self._deadlines is not None:
                self._deadlines.answered(request, clock)
            self.recorder.finished(
                RequestRow(
                    facts.id, facts.arrival_s, request.scheduled_s, request.first_token_s, clock,
                    facts.prompt_tokens, request.max_tokens, request.cached_tokens, request.preemptions,
                )
            )  # fmt: skip

    def close(self) -> None:
        """Bring the totals up to date; also after an interrupted run."""
        self.recorder.close(self.scheduler, self.scheduler.pool.evicted, self.scheduler.pool.allocated)
