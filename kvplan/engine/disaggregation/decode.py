"""A decode instance: reserves blocks for a prompt, waits until its KV has come, and decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Protocol

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.cargo import Cargo
from kvplan.engine.disaggregation.instance import Instance, PoolReplica
from kvplan.engine.disaggregation.journey import Journey, journey_of
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder, Totals
from kvplan.engine.remote.replica import RemoteReplica
from kvplan.engine.remote.scheduler import RemoteScheduler
from kvplan.engine.remote.source import UNKNOWN, KvSource
from kvplan.traces.request import Request


class DecodeEvents(Protocol):
    """What others need to know; called during ``advance``, for things that happen at the time given."""

    def reserved(self, journey: Journey, cargo: Cargo, refused: bool, now: float) -> None:
        """Blocks for the prompt are there; ``cargo`` is what is missing in them.

        ``refused``: there were not enough of them when the request came.
        """
        ...

    def began(self, journey: Journey, cargo: Cargo, refused: bool, now: float) -> None:
        """As ``reserved``, of a request that takes part in a step at once: nothing is to come for it."""
        ...

    def finished(self, journey: Journey, request: LiveRequest, now: float) -> None:
        """The last token was sampled."""
        ...


class DecodeScheduler(RemoteScheduler):
    """Every request that is new here waits for its KV, even if all of it should be cached already.

    Attributes:
        came: ``looks`` when a request came that has no blocks yet.
        cargoes: what is sent of those who got blocks in this ``schedule()`` call, until the replica knows.
    """

    def __init__(
        self,
        config: EngineConfig,
        source: KvSource,
        totals: Totals,
        *,
        keep_schedule: bool,
    ) -> None:
        super().__init__(config, source, keep_schedule=keep_schedule)
        self.count(totals)

    def count(self, totals: Totals) -> None:
        """Let it know how many steps there were; called once, when it is otherwise complete."""
        self._totals = totals
        self._calls = self._steps = 0
        self.came: dict[LiveRequest, int] = {}
        self.cargoes: dict[LiveRequest, Cargo] = {}

    def add(self, request: LiveRequest) -> None:
        """See the base class."""
        super().add(request)
        journey = journey_of(request)
        journey.offered = request
        if not journey.lost:
            self.came[request] = self.looks

    @property
    def looks(self) -> int:
        """How often it was asked for a step, were none taken in bulk."""
        return self._calls + self._totals.steps - self._steps

    def schedule(self) -> StepPlan:
        """See the base class."""
        self._calls += 1
        plan = super().schedule()
        if plan.batch.scheduled_tokens or plan.preempted:
            self._steps += 1
        return plan

    def fetchable(self, request: LiveRequest, start: int) -> int:
        """The tokens that prefill sends, from ``start`` on; none that must be computed here."""
        journey = journey_of(request)
        if journey.lost or journey.reserved_s >= 0:
            return 0  # computed here: lost on the way, or preempted after it had come
        # Where some of the prompt is left to this instance, all the rest of it may be here already.
        least = int(journey.sent_tokens == journey.request.prompt_tokens)
        return max(least, min(journey.sent_tokens, request.num_tokens) - start)

    def begin(self, plan: StepPlan, request: LiveRequest, hit_tokens: int, tokens: int) -> None:
        """As the base class; whoever was to wait for KV and need not has it all."""
        if request in self.came:
            self.cargoes[request] = replace(self.cargo(request, hit_tokens), blocks=0, states=0)
        super().begin(plan, request, hit_tokens, tokens)

    def begin_load(self, request: LiveRequest, match: Match, tokens: int) -> None:
        """As the base class; what has no content now is sent."""
        super().begin_load(request, match, tokens)
        self.cargoes[request] = self.cargo(request, match.blocks * self.block_size)

    def cargo(self, request: LiveRequest, start: int) -> Cargo:
        """What is sent of a request that has blocks, and content for the first ``start`` tokens."""
        size = self.block_size
        kept = start // size
        return Cargo(-(-journey_of(request).sent_tokens // size) - kept, kept_blocks=kept)

    def withdraw(self, request: LiveRequest) -> None:
        """A prompt will not come after all: forget its request, give back what was reserved."""
        self.version += 1
        if request not in self.queue.loading:
            self.queue.remove(request)
            del self.came[request]
            return
        del self.queue.loading[request]
        self.give_back(request)


class Decoding(Instance):
    """How an engine of the decode pool waits for others, for one scheduler or for ranks in step.

    Attributes:
        expected: requests that have no blocks yet; as long as there are some, others wait for what it does.
        parked: nothing runs and nothing fits, until something reaches it.
    """

    stops: bool
    stopped: bool
    parked = False

    @property
    def expected(self) -> int:
        """See the class."""
        raise NotImplementedError

    @property
    def hears(self) -> bool:
        """Whether something has come that it has not noticed."""
        raise NotImplementedError

    def compute(self, until: float) -> None:
        """Go on with steps until the clock is at ``until`` or later, or no step is due."""
        raise NotImplementedError

    def notices_idle(self) -> bool:
        """Whether nothing can be computed and loads have come; they are known then."""
        raise NotImplementedError

    @property
    def next_s(self) -> float:
        """Others notice nothing of what it does before this time; infinite while nobody waits for it.

        While something has come that it has not noticed, it goes on as far as that.

        Clients that wait for answers wait for whatever it can do.
        """
        waited_for = self.expected or self.hears or (self.stops and (self.works or self.ends_s < inf))
        return self.clock if waited_for and not self.parked else inf

    def go_on(self, until: float) -> None:
        """To ``until``, or to the step in which blocks were reserved: then others may have to act first."""
        while True:
            expected = self.expected
            self.compute(until)
            if self.stopped or self.clock >= until or self.expected < expected or not self.notices_idle():
                return

    def catch_up(self, now: float) -> None:
        """Bring it to ``now``, when something reaches it. ``next_s`` must not be before that."""
        if not self.parked:
            self.go_on(now)
        self.parked = False
        self.wait_until(now)


class DecodeReplica(PoolReplica, RemoteReplica, Decoding):
    """One instance of the decode pool, or a rank of one.

    It is its own ``KvSource``, and others say when a load ends.

    Attributes:
        expected: see ``Decoding``.
    """

    expected = 0

    def __init__(
        self, config: EngineConfig, latency: LatencyModel, recorder: Recorder, events: DecodeEvents
    ) -> None:
        self.decode: DecodeScheduler
        super().__init__(config, latency, recorder, self)
        self.events = events

    def make_scheduler(self) -> RemoteScheduler:
        """See ``RemoteReplica``."""
        self.decode = DecodeScheduler(self.config, self, self.recorder.totals, keep_schedule=self.logging)
        return self.decode

    def advance(self, until: float) -> None:
        """As ``Replica``, up to the step in which blocks were reserved."""
        self.go_on(until)

    # -- what reaches it --------------------------------------------------------------------------------

    @property
    def members(self) -> Sequence[DecodeReplica]:
        """Whoever has requests: itself alone."""
        return (self,)

    def offer(self, journey: Journey, request: Request) -> int:
        """A request whose KV will come, or (``journey.lost``) that is to be computed here.

        Returns which of its members gets it.
        """
        self.push(request)
        self.expected += not journey.lost
        return 0

    @property
    def computes(self) -> bool:
        """Whether its device has something to do, now or with the next step."""
        return bool(self.scheduler.running or self.in_flight)

    def some_request(self) -> str:
        """The id of a request that is not finished."""
        holders = (*self.scheduler.running, *self.scheduler.queue.holders)
        return (holders[0] if holders else self.scheduler.queue.head()).request.id

    def arrived(self, request: LiveRequest, now: float) -> None:
        """All KV of a request with blocks is there."""
        self.ended(self.scheduler.queue.loading[request], now)

    def withdraw(self, request: LiveRequest) -> None:
        """The KV of a request will not come."""
        self.expected -= request not in self.scheduler.queue.loading
        self.decode.withdraw(request)

    # -- KvSource ---------------------------------------------------------------------------------------

    def lookup(self, request: LiveRequest, start: int) -> int:
        """See ``KvSource``; the scheduler asks the journey itself."""
        return self.decode.fetchable(request, start)

    def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
        """See ``KvSource``."""
        cargo, refused = self._has_blocks(request)
        self.events.reserved(journey_of(request), cargo, refused, now)
        return UNKNOWN

    def _has_blocks(self, request: LiveRequest) -> tuple[Cargo, bool]:
        """What is sent of a request that has blocks now, and whether there were none when it came."""
        self.expected -= 1
        decode = self.decode
        return decode.cargoes.pop(request), decode.looks - decode.came.pop(request) > 1

    # -- what a plain instance does not do --------------------------------------------------------------

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        """As the base class; reserved blocks are prefill's business at once."""
        reserves = bool(self.decode.cargoes)
        until = super().planned(plan, clock, until)
        for request in [*self.decode.cargoes]:
            cargo, refused = self._has_blocks(request)
            self.events.began(journey_of(request), cargo, refused, clock)
        return clock if reserves else until

    def _nothing_fits(self, clock: float) -> None:
        super()._nothing_fits(clock)
        self.parked = not self.scheduler.come

    def deliver(self, plan: StepPlan, clock: float) -> None:
        """As the base class; rows are written of whole journeys, not of what happens here."""
        for request in plan.first:
            request.first_token_s = clock
        self.scheduler.deliver(plan)
        for request in plan.finish:
            self.events.finished(journey_of(request), request, clock)
