"""The engine core's loop: take in arrivals, schedule, execute for as long as the latency model says."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from kvplan.engine.arrivals import Arrivals, arrivals_of, tell_steps
from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.frontend import rejection
from kvplan.engine.patience import Deadlines, Patience
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder, RequestRow, decision_line
from kvplan.engine.reference.instance import ReferenceInstance
from kvplan.engine.reference.scheduler import Scheduler, StepPlan
from kvplan.engine.reference.state import RequestState
from kvplan.engine.watchdog import Watchdog
from kvplan.traces.request import Request


class ReferenceEngine(ReferenceInstance[RequestState]):
    """See ``ReferenceInstance``; ``config``: engine options."""

    def __init__(
        self, config: EngineConfig, latency: LatencyModel, recorder: Recorder, *, check: bool = False
    ) -> None:
        self.config = config
        self.scheduler = Scheduler(config)
        super().__init__(latency, recorder, self.scheduler.abort, check=check)
        self._watchdog = Watchdog(config)

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """Serve the requests, which arrive in the order given (arrival times must not fall)."""
        arrivals = arrivals_of(requests, self.recorder)
        tell_steps(self, arrivals)
        self._deadlines = Deadlines(arrivals.patience or Patience())
        in_flight: deque[tuple[StepPlan, float]] = deque()
        # Async scheduling keeps two batches in the queue: one runs, the next one is already planned.
        depth = 2 if self.config.async_scheduling else 1
        clock = device_free = 0.0
        while True:
            self._take_in(arrivals, clock)
            if self.scheduler.has_requests:
                plan = self.scheduler.schedule()
                end = clock
                if plan.tokens:
                    seconds = self._step_seconds(plan)
                    end = device_free = max(clock, device_free) + seconds
                elif not plan.preempted and not in_flight:
                    raise EngineStuck(clock, self.scheduler.waiting.head().request.id)
                self._record(plan, clock)
                in_flight.append((plan, end))
                if plan.tokens and len(in_flight) < depth:
                    continue
            elif not in_flight:
                if arrivals.over:
                    break
                clock = max(clock, arrivals.next_s)
                continue
            plan, end = in_flight.popleft()
            clock = max(clock, end)
            # The engine core handles aborts when a step has been executed, before its outputs.
            self._give_up(clock)
            self._deliver(plan, clock)
            if self.check:
                running = self.scheduler.running
                self.scheduler.cache.pool.check(table for state in running for table in state.blocks)

    def _take_in(self, arrivals: Arrivals, clock: float) -> None:
        totals = self.recorder.totals
        while arrivals.due(clock):
            request = arrivals.take()
            index = totals.requests
            totals.requests += 1
            reason = rejection(request, self.config)
            if reason is not None:
                self.recorder.rejected(request.id, reason)
                continue
            state = RequestState(request, index, len(self.config.groups))
            self.scheduler.add(state)
            self._deadlines.watch(state)
            self._give_up(clock)  # it came during a step, and its client may have gone since

    def _step_seconds(self, plan: StepPlan) -> float:
        before = plan.computed_before
        parts = ((before[state], tokens, state.prompt_tokens) for state, tokens in plan.tokens.items())
        return self._seconds(parts, len(plan.sampling))

    def _record(self, plan: StepPlan, clock: float) -> None:
        recorder, pool = self.recorder, self.scheduler.cache.pool
        used = self.config.usable_blocks - plan.free_blocks
        for state in plan.tokens:
            if state.scheduled_s < 0:
                state.scheduled_s = clock
        recorder.occupancy(used, plan.running, plan.waiting)
        victim = plan.preempted[-1].request.id if plan.preempted else None
        self._watchdog.planned(len(plan.sampling), victim, clock)
        if not plan.tokens and not plan.preempted:
            return
        if recorder.on_decision is not None:
            scheduled = ((state.request.id, count) for state, count in plan.tokens.items())
            preempted = (state.request.id for state in plan.preempted)
            line = decision_line(scheduled, plan.free_blocks, plan.running, plan.waiting, preempted)
            recorder.on_decision(line)
        recorder.step(clock, used, pool.published_free, plan.running, plan.waiting, self.scheduler)

    def _deliver(self, plan: StepPlan, clock: float) -> None:
        finished = self.scheduler.deliver(plan)
        for state in plan.sampling:
            if state.first_token_s < 0:
                state.first_token_s = clock
        for state in finished:
            request = state.request
            self._deadlines.answered(state, clock)
            self.recorder.finished(
                RequestRow(
                    request.id, request.arrival_s, state.scheduled_s, state.first_token_s, clock,
                    request.prompt_tokens, state.num_output_tokens, state.cached_tokens, state.preemptions,
                )
            )  # fmt: skip

    def close(self) -> None:
        """Bring the totals up to date; also after an interrupted run."""
        pool = self.scheduler.cache.pool
        self.recorder.close(self.scheduler, pool.evicted_blocks, pool.allocated_blocks)
