"""SGLang's event loops (``event_loop_overlap``, ``event_loop_normal``) around the oracle of its scheduler."""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.engine.arrivals import Arrivals, arrivals_of, tell_steps
from kvplan.engine.errors import EngineStuck
from kvplan.engine.patience import Deadlines, Patience
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder, RequestRow, decision_line
from kvplan.engine.reference.instance import ReferenceInstance
from kvplan.engine.reference.sglang import ReferenceSglangScheduler
from kvplan.engine.reference.sglang_state import SglangPlan, SglangState
from kvplan.engine.sglang.config import OUT_OF_MEMORY, SglangConfig, sglang_rejection
from kvplan.traces.request import Request


class ReferenceSglangEngine(ReferenceInstance[SglangState]):
    """See ``ReferenceInstance``.

    Args:
        config: engine options.
        latency, recorder, check: as of the base class.
        scheduler: whose batches are run; None: the plain one's.
    """

    def __init__(
        self,
        config: SglangConfig,
        latency: LatencyModel,
        recorder: Recorder,
        *,
        check: bool = False,
        scheduler: ReferenceSglangScheduler | None = None,
    ) -> None:
        self.config = config
        self.scheduler = ReferenceSglangScheduler(config) if scheduler is None else scheduler
        super().__init__(latency, recorder, self.scheduler.abort, check=check)

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """Serve the requests, which arrive in the order given (arrival times must not fall)."""
        scheduler = self.scheduler
        overlap = not self.config.disable_overlap_schedule
        arrivals = arrivals_of(requests, self.recorder)
        tell_steps(self, arrivals)
        self._deadlines = Deadlines(arrivals.patience or Patience())
        clock = device_free = 0.0
        in_flight: tuple[SglangPlan, float] | None = None
        stalled = False
        while True:
            # The scheduler hears of requests, and of who gave up, before it makes a batch.
            stalled &= not self._give_up(clock)
            while arrivals.due(clock):
                self._take_in(arrivals.take(), clock)
                self._give_up(clock)
                stalled = False
            if not scheduler.has_requests:
                scheduler.idle()
                if arrivals.over:
                    return
                clock = arrivals.next_s
                continue
            plan = scheduler.schedule()
            self._record(plan, clock)
            before, in_flight = in_flight, None
            if not plan.empty:
                device_free = max(clock, device_free) + self._step_seconds(plan)
                in_flight = (plan, device_free)
            due = before if overlap else in_flight
            if due is not None:
                clock = max(clock, due[1])
                self._deliver(due[0], clock)
            elif plan.empty and scheduler.deferred_rounds:
                scheduler.deferred_rounds = 0  # rounds without a batch take no time
                continue
            elif (
                plan.empty
                and stalled
                and not (plan.retracted or plan.refused)
                and (scheduler.chunked or scheduler.waiting)
            ):
                raise EngineStuck(clock, (scheduler.chunked or scheduler.waiting[0]).request.id)
            stalled = plan.empty and due is None
            if self.check:
                scheduler.check()

    def _take_in(self, request: Request, clock: float) -> None:
        self.recorder.totals.requests += 1
        reason = sglang_rejection(request.prompt_tokens, request.output_tokens, self.config)
        if reason is None:
            self._deadlines.watch(self.scheduler.add(request))
            self._turn_away(clock)
        else:
            self.recorder.rejected(request.id, reason)

    def _turn_away(self, clock: float) -> None:
        """Those for whom the queue had no place, and who still listen."""
        for state, reason in self.scheduler.turned_away:
            if state.aborted:
                continue
            self.recorder.rejected(state.request.id, reason, clock)
            self._deadlines.forget(state)
        self.scheduler.turned_away = []

    def _step_seconds(self, plan: SglangPlan) -> float:
        batch = (*plan.extends, *plan.decodes)
        parts = ((plan.before[state], plan.tokens_of(state), state.prompt_tokens) for state in batch)
        return self._seconds(parts, sum(state is not plan.chunked for state in batch))

    def _record(self, plan: SglangPlan, clock: float) -> None:
        recorder, page = self.recorder, self.config.page_size
        for state in plan.extends:
            if state.scheduled_s < 0:
                state.scheduled_s = clock
        for state in plan.refused:
            if state.aborted:
                continue
            deadline_s = self._deadlines.answered(state, clock)
            if deadline_s is None:
                recorder.rejected(state.request.id, OUT_OF_MEMORY, clock)
            else:
                recorder.timed_out(state.request.id, deadline_s)
        used = (self.config.pool_tokens - plan.free) // page
        recorder.occupancy(used, plan.running, plan.waiting)
        self._turn_away(clock)
        if plan.empty and not plan.retracted:
            return
        if recorder.on_decision is not None:
            batch = (*plan.extends, *plan.decodes)
            scheduled = ((state.request.id, plan.tokens_of(state)) for state in batch)
            retracted = (state.request.id for state in plan.retracted)
            recorder.on_decision(decision_line(scheduled, plan.free, plan.running, plan.waiting, retracted))
        cached = self.scheduler.tree.evictable // page
        recorder.step(clock, used, cached, plan.running, plan.waiting, self.scheduler)

    def _deliver(self, plan: SglangPlan, clock: float) -> None:
        for state in plan.extends:
            if state.first_token_s < 0 and state is not plan.chunked and state.holding is not None:
                state.first_token_s = clock
        finished = self.scheduler.deliver(plan)
        for state in finished:
            request = state.request
            if state.aborted:
                continue
            deadline_s = self._deadlines.answered(state, clock)
            if deadline_s is not None:
                self.recorder.timed_out(request.id, deadline_s)
                continue
            self.recorder.finished(
                RequestRow(
                    request.id, request.arrival_s, state.scheduled_s, state.first_token_s, clock,
                    request.prompt_tokens, state.outputs, state.cached_tokens, state.preemptions,
                )
            )  # fmt: skip

    def close(self) -> None:
        """Bring the totals up to date; also after an interrupted run."""
        scheduler, page = self.scheduler, self.config.page_size
        self.recorder.sections.update(scheduler.sections())
        self.recorder.close(scheduler, scheduler.tree.evicted // page, scheduler.allocated // page)
