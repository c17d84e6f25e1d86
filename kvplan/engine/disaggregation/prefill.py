"""A prefill instance: computes prompts, samples one token each, keeps their blocks until they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.instance import Instance, PoolReplica
from kvplan.engine.disaggregation.journey import Journey, journey_of
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.remote.plan import FencedPlan, carries
from kvplan.engine.scheduler_vllm import VllmScheduler
from kvplan.traces.request import Request


class PrefillEvents(Protocol):
    """What others need to know; called during ``advance``, for things that happen at the time given."""

    def scheduled(self, journey: Journey, now: float) -> None:
        """The instance began (again) to compute a prompt; only reported when streaming by layer."""
        ...

    def preempted(self, journey: Journey, now: float) -> None:
        """Everything computed so far is gone; only reported when streaming by layer."""
        ...

    def computed(self, journey: Journey, attempt: int, begun: float, ended: float) -> None:
        """A step from ``begun`` to ``ended`` computed the end of the prompt; reported as above."""
        ...

    def prefilled(self, journey: Journey, now: float) -> None:
        """The prompt is computed and its token sampled; ``journey.held`` is None if its blocks are gone."""
        ...


class PrefillScheduler(VllmScheduler):
    """Finished requests keep their blocks until ``release``."""

    def __init__(self, config: EngineConfig, handover: Handover, *, keep_schedule: bool) -> None:
        super().__init__(config, keep_schedule=keep_schedule)
        self.hold(handover)

    def hold(self, handover: Handover) -> None:
        """Make it a scheduler whose requests are sent on; called once, when it is otherwise complete."""
        self.handover = handover
        self.held: dict[LiveRequest, None] = {}
        self.set_back: list[LiveRequest] = []
        """Requests preempted in this ``schedule()`` call."""

    def new_plan(self) -> StepPlan:
        """See the base class; one that knows whom it computes, as they may not be preempted meanwhile."""
        return FencedPlan()

    def preemptible(self, request: LiveRequest) -> bool:
        """See the base class."""
        return (
            self.handover is not Handover.KEPT or not self.in_flight or not carries(self.last_plan, request)
        )

    def _log_regular(self, plan: StepPlan, chunks: dict[LiveRequest, int]) -> None:
        plan.scheduled += chunks.items()  # nobody here decodes

    def _finish(self, request: LiveRequest) -> None:
        if request.status is not Status.RUNNING:
            # Preempted while its token was in flight: there is nothing left to send.
            super()._finish(request)
            return
        self.version += 1
        del self.running[request]
        self.complete(request)
        request.status = Status.FINISHED
        self.held[request] = None

    def release(self, request: LiveRequest) -> None:
        """The blocks of a finished request have been sent."""
        del self.held[request]
        self.version += 1
        self.give_back(request)

    def preempt(self, request: LiveRequest, taken_back: int) -> None:
        """As the base class; whoever receives its layers must know."""
        super().preempt(request, taken_back)
        self.set_back.append(request)
        if self.handover is Handover.REPEATED and request.stale:
            assert self.last_plan is not None
            self.last_plan.drop(request)
            request.samples = request.stale = 0


class Prefilling(Instance):
    """How an engine of the prefill pool stands still, for one scheduler or for ranks in step.

    Attributes:
        parked_s: since when nothing fits because blocks are held; None while there is something to do.
        stalled_s: how long it was like that in all.
    """

    parked_s: float | None = None
    stalled_s = 0.0

    def advance(self, until: float) -> None:
        """See ``Actor``."""
        raise NotImplementedError

    @property
    def next_s(self) -> float:
        """Others notice nothing of what it does before this time; infinite while it waits itself."""
        return self.clock if self.parked_s is None and self.works else self.ends_s

    def catch_up(self, now: float) -> None:
        """Bring it to ``now``, when something reaches it. ``next_s`` must not be before that."""
        if self.parked_s is not None:
            self.stalled_s += now - self.parked_s
            self.parked_s = None
        elif not self.works:
            self.advance(now)
        self.wait_until(now)


class PrefillReplica(PoolReplica, Prefilling):
    """One instance of the prefill pool, or a rank of one.

    ``advance`` ends when a prompt is computed, or has begun where that matters to others: what follows from
    it may come back to this instance before its next step.

    Attributes:
        peak_held: most requests computed and not yet sent.
    """

    hears_every_step = True
    scheduler: PrefillScheduler

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        events: PrefillEvents,
        *,
        layers: bool,
        handover: Handover,
    ) -> None:
        self.layers = layers
        self.handover = handover
        super().__init__(config, latency, recorder)
        self.events = events
        self.peak_held = 0
        self._free_s = 0.0
        self._seconds = 0.0
        self._ending = False
        self._streams: dict[StepPlan, tuple[float, list[tuple[Journey, int]]]] = {}

    def make_scheduler(self) -> PrefillScheduler:
        """One that keeps what is sent."""
        return PrefillScheduler(self.config, self.handover, keep_schedule=self.layers or self.logging)

    @property
    def members(self) -> Sequence[PrefillReplica]:
        """Whoever has requests: itself alone."""
        return (self,)

    def take(self, request: Request) -> int:
        """A request to compute; returns which of its members gets it."""
        self.push(request)
        return 0

    @property
    def computes(self) -> bool:
        """Whether its device has something to do, now or with the next step."""
        return bool(self.scheduler.running or self.in_flight)

    def some_request(self) -> str:
        """The id of a request that is not finished."""
        for request in self.scheduler.running:
            return request.request.id
        return self.scheduler.waiting.head().request.id

    def release(self, request: LiveRequest) -> None:
        """The cache of a finished request has been sent."""
        self.scheduler.release(request)

    # -- what a plain instance does not do --------------------------------------------------------------

    def step_seconds(self, plan: StepPlan) -> float:
        """As the base class, and kept: layers are sent while the step runs."""
        self._seconds = super().step_seconds(plan)
        return self._seconds

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        """As the base class; what others must hear of ends the advance."""
        super().planned(plan, clock, until)
        scheduler = self.scheduler
        # One token is asked of everybody: whoever samples ends. A step's end is dealt with after the next one
        # was planned, where two are in flight.
        samples = plan.batch.sampled_requests > 0
        noticed = samples or self._ending or bool(scheduler.set_back)
        self._ending = samples
        if self.layers:
            for request in scheduler.set_back:
                self.events.preempted(journey_of(request), clock)
        scheduler.set_back = []
        if self.layers and plan.batch.scheduled_tokens:
            begun = clock if clock > self._free_s else self._free_s
            self._free_s = begun + self._seconds
            ending = []
            for request, _ in plan.scheduled:
                journey = journey_of(request)
                if journey.offered is None:
                    noticed = True
                    self.events.scheduled(journey, clock)
                if request.computed >= request.prompt_tokens:
                    ending.append((journey, journey.attempt))
            self._streams[plan] = begun, ending
        return clock if noticed else until

    @property
    def expects_blocks(self) -> bool:
        """As the base class: what is sent gives its blocks back."""
        return bool(self.scheduler.held)

    def _nothing_fits(self, clock: float) -> None:
        if not self.scheduler.held:
            super()._nothing_fits(clock)
        self.parked_s = clock

    def deliver(self, plan: StepPlan, clock: float) -> None:
        """The KV of an executed step is handed on; rows are written where requests are decoded."""
        self.scheduler.deliver(plan)
        if self.layers and plan.batch.scheduled_tokens:
            begun, ending = self._streams.pop(plan)
            for journey, attempt in ending:
                self.events.computed(journey, attempt, begun, clock)
        for request in plan.finish:
            journey = journey_of(request)
            journey.scheduled_s = request.scheduled_s
            journey.cached_tokens = request.cached_tokens
            journey.preemptions = request.preemptions
            journey.held = request if request in self.scheduler.held else None
            self.events.prefilled(journey, clock)
        self.peak_held = max(self.peak_held, len(self.scheduler.held))
