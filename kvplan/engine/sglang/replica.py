"""One SGLang engine instance: the event loop around the scheduler, and the clock.

Between events all running requests take one token a step and nothing is decided; ``_coast`` runs through
such steps in a tight loop, adding up the clock step by step as the latency model defines it.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import nextafter
from typing import TYPE_CHECKING

from kvplan.engine.arrivals import Arrivals, arrivals_of, serve, tell_steps
from kvplan.engine.errors import EngineStuck, InvalidLatency
from kvplan.engine.protocols import LatencyModel, StepBatch
from kvplan.engine.recorder import Recorder, RequestRow, SeriesPoint, decision_line
from kvplan.engine.sglang.config import OUT_OF_MEMORY, SglangConfig, sglang_rejection
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.scheduler import SglangScheduler
from kvplan.traces.request import Request

if TYPE_CHECKING:
    from kvplan.engine.patience import Deadlines, Patience

_NEVER = float("inf")

Flight = tuple[SglangPlan, float]
"""With overlap: the batch on the device while the next one is made, and when it will be done."""


class SglangReplica:
    """An SGLang engine with one radix cache.

    Decision lines have vLLM's form: tokens per request in batch order, then tokens nobody references
    (cached ones included), requests that hold KV, requests waiting, and the ids of those retracted. Blocks
    in totals and series are pages.

    Args:
        config: engine options.
        latency: how long a step takes.
        recorder: where everything that happens is written.
    """

    def __init__(self, config: SglangConfig, latency: LatencyModel, recorder: Recorder) -> None:
        self.config = config
        self.latency = latency
        self.recorder = recorder
        self.logging = recorder.on_decision is not None
        self.scheduler = self.make_scheduler()
        self.clock = 0.0
        self._device_free = 0.0
        self._in_flight: Flight | None = None
        self._stalled = False
        """Whether the last round planned nothing and waited for nothing."""
        self.stops = self.stopped = False
        """See ``Stepped``."""
        self._deadlines: Deadlines[SglangRequest] | None = None
        self.gives_up_s = _NEVER
        """No client gives up before."""

    def make_scheduler(self) -> SglangScheduler:
        """The scheduler of this instance."""
        return SglangScheduler(self.config, keep_schedule=self.logging)

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
        self._stalled = False
        if request.arrival_s > self.clock and not self.scheduler.has_requests:
            self.clock = request.arrival_s
        reason = self.rejection(request)
        if reason is not None:
            self.recorder.rejected(request.id, reason)
            return
        live = self.scheduler.live(request)
        if self._deadlines is not None:
            self._deadlines.watch(live)
        self.scheduler.add(live)
        if self.scheduler.waiting.turned_away:
            self.turn_away(self.clock)
        if self._deadlines is not None:
            self.give_up(self.clock)

    def rejection(self, request: Request) -> str | None:
        """Why this request is not served, or None if it is."""
        return sglang_rejection(request.prompt_tokens, request.output_tokens, self.config)

    def advance(self, until: float) -> None:
        """Go on until the clock is at ``until`` or later, or nothing is left to do; see also ``stops``.

        A batch is made of the requests that have arrived when it is made, so whoever pushes a request at
        time t advances to t first.
        """
        scheduler = self.scheduler
        clock, device_free, in_flight = self.clock, self._device_free, self._in_flight
        self.stopped = False
        while True:
            # Before the next batch is made, as whoever tries again may have sent what belongs into it.
            if clock > self.gives_up_s:
                self.give_up(clock)
            if clock >= until or self.stopped:
                break
            if not scheduler.has_requests:
                scheduler.idle()
                break
            if not self.logging and (in_flight or not scheduler.overlap) and self.quiet():
                clock, device_free, in_flight = self._coast(clock, device_free, in_flight, until)
                if clock >= until or clock > self.gives_up_s:
                    continue
            plan, clock = self._plan(clock)
            if self.record(plan, clock):
                self.stopped = self.stops
            before, in_flight = in_flight, None
            if plan.batch.scheduled_tokens:
                start = clock if clock > device_free else device_free
                device_free = self._launch(plan, start)
                in_flight = (plan, device_free)
            due = before if scheduler.overlap else in_flight
            if not scheduler.overlap:
                in_flight = None
            if due is not None:
                if due[1] > clock:
                    clock = due[1]
                self._stalled = False
                if self.deliver(due[0], clock) and self.stops:
                    self.stopped = True
            elif not plan.batch.scheduled_tokens:
                if scheduler.pause.left:
                    scheduler.pause.end()
                    continue
                if self._stalled and not plan.moves and scheduler.awaits:
                    clock = self._wait(clock, min(until, nextafter(self.gives_up_s, _NEVER)))
                self._stalled = True
            else:
                self._stalled = False
        self.clock, self._device_free, self._in_flight = clock, device_free, in_flight

    def _plan(self, clock: float) -> tuple[SglangPlan, float]:
        """Have the next batch made; returns it, and when that is done."""
        return self.scheduler.schedule(), clock

    def _launch(self, plan: SglangPlan, start: float) -> float:
        """The device begins with a batch; returns when it is through."""
        return start + self.step_seconds(plan.batch)

    def _wait(self, clock: float, until: float) -> float:
        """Nothing runs, and nobody who waits fits: returns when that may have changed, or ``until``.

        Raises:
            EngineStuck: it never will.
        """
        awaited = self.scheduler.awaits
        assert awaited is not None
        raise EngineStuck(clock, awaited.request.id)

    def turn_away(self, clock: float) -> bool:
        """Write down for whom the queue had no place; whether anybody of them still listens."""
        # Who was sent back may have been given up before.
        turned_away = [item for item in self.scheduler.waiting.turned_away if not item[0].aborted]
        self.scheduler.waiting.turned_away = []
        for request, reason in turned_away:
            self.recorder.rejected(request.request.id, reason, clock)
            if self._deadlines is not None:
                self._deadlines.forget(request)
        return bool(turned_away)

    def give_up(self, clock: float) -> bool:
        """Tell the scheduler whose clients have gone by now; whether any have."""
        assert self._deadlines is not None
        left = False
        for deadline_s, request in self._deadlines.passed(clock):
            self.scheduler.abort(request)
            self.recorder.timed_out(request.request.id, deadline_s)
            self.stopped = self.stops
            self._stalled = False
            left = True
        self.gives_up_s = self._deadlines.next_s
        return left

    # -- what a router sees -----------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return self.scheduler.has_requests

    @property
    def requests(self) -> int:
        """Requests it has, running and waiting."""
        return self.scheduler.running + self.scheduler.queued

    @property
    def used_blocks(self) -> int:
        """Pages that running requests hold."""
        return (self.config.pool_tokens - self.scheduler.pool.unreferenced) // self.scheduler.page

    def prompt_blocks_of(self, request: Request) -> int:
        """Pages the request's prompt fills."""
        return -(-request.prompt_tokens // self.scheduler.page)

    def cached_blocks_of(self, request: Request) -> int:
        """Pages of the request's prompt that are in the radix cache; looking changes nothing."""
        pool = self.scheduler.pool
        content = self.scheduler.live(request).content
        return pool.tree.cached(content, pool.known(request.prompt_tokens - 1)) // pool.page

    def point(self, now: float) -> SeriesPoint:
        """The state as the series has it."""
        scheduler = self.scheduler
        return SeriesPoint(
            now, self.used_blocks, scheduler.pool.tree.evictable // scheduler.page, scheduler.running,
            scheduler.queued, scheduler.queried_tokens, scheduler.hit_tokens, scheduler.preemptions,
        )  # fmt: skip

    # -- steps in which nothing is decided --------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether, as a rank of several, it runs nothing before something reaches it."""
        return not self.busy

    def pass_by(self, steps: int) -> None:
        """Write down that others took steps while it waited."""
        self.scheduler.pause.pass_by(steps, 0)

    def quiet(self) -> bool:
        """Whether the next steps only advance the running batch, for all that is known now.

        With overlap a batch must be in flight.
        """
        scheduler = self.scheduler
        if scheduler.aborting:
            return False
        if scheduler.chunked is not None or scheduler.left_over or not scheduler.decoding.count:
            return False
        if scheduler.waiting and not scheduler.shut:
            return False
        return scheduler.last is None or not scheduler.last.extends

    def _coast(
        self, clock: float, device_free: float, in_flight: Flight | None, until: float
    ) -> tuple[float, float, Flight | None]:
        """Run through quiet steps until the one before the next event; returns the clocks after them."""
        scheduler, recorder = self.scheduler, self.recorder
        decoding = scheduler.decoding
        totals = recorder.totals
        steps = totals.steps
        limit = min(decoding.quiet_steps, -steps % recorder.series_stride)
        if limit <= 0:
            return clock, device_free, in_flight
        overlap = in_flight is not None
        until = min(until, nextafter(self.gives_up_s, _NEVER))
        page, boundaries, count = scheduler.page, decoding.boundaries, decoding.count
        # The allocator wants a page for everyone at hand, whether it is needed or not.
        spare = scheduler.pool.room - count * page
        step_seconds = self.latency.step_seconds
        batch = StepBatch(count, 0, count, 0, None, count)
        tick = decoding.tick
        context = decoding.base_sum + count * tick
        phase = tick % page
        taken = done = 0
        while done < limit and until > clock and taken <= spare:
            taken += boundaries[phase] * page
            phase += 1
            if phase == page:
                phase = 0
            context += count
            batch.decode_context = batch.decode_kv_tokens = context
            seconds = step_seconds(batch)
            if not 0.0 <= seconds < _NEVER:
                raise InvalidLatency(seconds, steps + done)
            if overlap:
                clock, device_free = device_free, device_free + seconds
            else:
                clock = device_free = clock + seconds
            done += 1
        if not done:
            return clock, device_free, in_flight
        last = self.coasted(done, taken)
        return clock, device_free, (last, device_free) if overlap else in_flight

    def coasted(self, done: int, taken: int) -> SglangPlan:
        """Write down ``done`` quiet steps, whose pages have ``taken`` tokens; returns the last one's plan."""
        scheduler, recorder = self.scheduler, self.recorder
        decoding, ratio, least = scheduler.decoding, scheduler.ratio, scheduler.least_ratio
        scheduler.pause.pass_by(done, decoding.count)
        for _ in range(done):
            if ratio <= least:
                break
            ratio = max(ratio - scheduler.ratio_decay, least)
        scheduler.ratio = ratio
        decoding.tick = decoding.known = decoding.tick + done
        scheduler.processed += done * scheduler.begun_with
        last = SglangPlan()
        if scheduler.overlap:
            decoding.known -= 1
            last.decodes = True
            last.tick = decoding.tick
            last.batch.scheduled_tokens = decoding.count
            scheduler.last = last
        scheduler.pool.hand_out(taken)
        recorder.totals.steps += done
        used = (scheduler.config.pool_tokens - scheduler.pool.unreferenced) // scheduler.page
        recorder.occupancy(used, scheduler.running, scheduler.queued)
        return last

    # -- bookkeeping ------------------------------------------------------------------------------------

    def step_seconds(self, batch: StepBatch) -> float:
        """How long the device takes for a batch.

        Raises:
            InvalidLatency: the latency model says something that is no time.
        """
        seconds = self.latency.step_seconds(batch)
        if not 0.0 <= seconds < _NEVER:
            raise InvalidLatency(seconds, self.recorder.totals.steps)
        return seconds

    def record(self, plan: SglangPlan, clock: float) -> bool:
        """Write down a batch that was made at ``clock``; whether a client hears: it is turned away."""
        recorder, scheduler, page = self.recorder, self.scheduler, self.scheduler.page
        for request in plan.extends:
            if request.scheduled_s < 0:
                request.scheduled_s = clock
        for request in plan.aborted:
            self._refuse(request, clock)
        free = scheduler.pool.unreferenced
        used = (scheduler.config.pool_tokens - free) // page
        running, waiting = scheduler.running, scheduler.queued
        recorder.occupancy(used, running, waiting)
        heard = bool(scheduler.waiting.turned_away) and self.turn_away(clock)
        if not plan.batch.scheduled_tokens and not plan.retracted:
            return heard
        if recorder.on_decision is not None:
            scheduled = ((request.request.id, tokens) for request, tokens in plan.scheduled)
            retracted = (request.request.id for request in plan.retracted)
            recorder.on_decision(decision_line(scheduled, free, running, waiting, retracted))
        recorder.step(clock, used, scheduler.pool.tree.evictable // page, running, waiting, scheduler)
        return heard

    def _refuse(self, request: SglangRequest, clock: float) -> None:
        """An aborted request's client hears so, if it still listens."""
        if request.aborted:
            return
        deadline_s = None if self._deadlines is None else self._deadlines.answered(request, clock)
        if deadline_s is None:
            self.recorder.rejected(request.request.id, OUT_OF_MEMORY, clock)
        else:
            self.recorder.timed_out(request.request.id, deadline_s)
        self.stopped = self.stops

    def deliver(self, plan: SglangPlan, clock: float) -> bool:
        """A batch's outputs are there; whether a client hears: a last one has come, or came too late."""
        heard = False
        for request in plan.extends:
            if request.first_token_s < 0 and request is not plan.chunked and request.holding is not None:
                request.first_token_s = clock
        for request in self.scheduler.deliver(plan):
            facts = request.request
            if request.aborted:
                continue
            heard = True
            if self._deadlines is not None:
                deadline_s = self._deadlines.answered(request, clock)
                if deadline_s is not None:
                    self.recorder.timed_out(facts.id, deadline_s)
                    continue
            self.recorder.finished(
                RequestRow(
                    facts.id, facts.arrival_s, request.scheduled_s, request.first_token_s, clock,
                    facts.prompt_tokens, request.max_new_tokens, request.cached_tokens, request.preemptions,
                )
            )  # fmt: skip
        return heard

    def close(self) -> None:
        """Bring the totals up to date; also after an interrupted run."""
        pool = self.scheduler.pool
        self.recorder.close(self.scheduler, pool.tree.evicted // pool.page, pool.allocated // pool.page)
