"""Prefill and decode pools of vLLM's (``pools``): what happens to a request between them.

Parts of a prompt that stream out reach nobody until the last one has come: they wait in a queue of their own
and take their turn on the links when somebody looks at these.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.breakdown import Breakdown
from kvplan.engine.disaggregation.cargo import Cargo, Sizes
from kvplan.engine.disaggregation.decode import DecodeReplica
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.grouped import GroupedDecodeReplica, GroupedPrefillReplica
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.journey import UNSET, FirstToken, Journey, Ready
from kvplan.engine.disaggregation.pool import Pool, Ranks
from kvplan.engine.disaggregation.pools import PoolsEngine
from kvplan.engine.disaggregation.prefill import PrefillReplica
from kvplan.engine.disaggregation.ranks import DecodeInstance, DecodeRanks, PrefillInstance, PrefillRanks
from kvplan.engine.instance import one_full_group
from kvplan.engine.live import LiveRequest
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Metric, Recorder, RequestRow
from kvplan.traces.request import Request


class DisaggregatedEngine(PoolsEngine[Journey, PrefillInstance, DecodeInstance]):
    """See the package.

    Args:
        prefill, decode: the pools.
        recorder, route: as of ``PoolsEngine``.
        sizes: of what is sent.
        layers: pieces a prompt's KV is sent in while its last step is computed; 0: the whole cache is sent
            when the prompt is computed.
        handover: of prompts that a prefill instance would preempt while they end.
    """

    left_tokens: int
    """Tokens at the end of a longer prompt that decode instances compute."""

    def __init__(
        self,
        prefill: Pool,
        decode: Pool,
        recorder: Recorder,
        *,
        route: tuple[Stage, ...],
        layers: int,
        sizes: Sizes,
        first_token: FirstToken,
        handover: Handover = Handover.KEPT,
    ) -> None:
        self.left_tokens = self.left_to_decode(prefill.options)
        self.handover = handover
        self.layers = layers
        self.first_token = first_token
        self.sizes = sizes
        super().__init__((prefill, decode), recorder, route, Breakdown(first_token))
        self._streamed: list[tuple[float, int, Journey, int, float]] = []

    def prefill_instance(self, pool: Pool, recorder: Recorder) -> PrefillInstance:
        """One instance of the prefill pool."""
        if pool.ranks is None:
            return self.make_prefill(pool.options, pool.latency, recorder)
        return self.prefill_ranks(pool, pool.ranks, recorder)

    def decode_instance(self, pool: Pool, recorder: Recorder) -> DecodeInstance:
        """One instance of the decode pool."""
        if pool.ranks is None:
            return self.make_decode(pool.options, pool.latency, recorder)
        return self.decode_ranks(pool, pool.ranks, recorder)

    def prefill_ranks(self, pool: Pool, ranks: Ranks, recorder: Recorder) -> PrefillRanks:
        """A prefill instance that has ranks."""
        return PrefillRanks(pool, ranks, recorder, self.make_prefill)

    def decode_ranks(self, pool: Pool, ranks: Ranks, recorder: Recorder) -> DecodeRanks:
        """A decode instance that has ranks."""
        return DecodeRanks(pool, ranks, recorder, self.make_decode)

    def make_prefill(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> PrefillReplica:
        """A prefill instance, or a rank of one."""
        kind = PrefillReplica if one_full_group(config) else GroupedPrefillReplica
        return kind(config, latency, recorder, self, layers=bool(self.layers), handover=self.handover)

    def make_decode(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> DecodeReplica:
        """A decode instance, or a rank of one."""
        kind = DecodeReplica if one_full_group(config) else GroupedDecodeReplica
        return kind(config, latency, recorder, self)

    def left_to_decode(self, config: EngineConfig) -> int:
        """``left_tokens`` of instances with these options.

        A state is sent as of one token before the end: with all tokens in it, the last one could not be
        computed again.
        """
        return int(any(group.kind == "mamba" for group in config.groups))

    # -- a request's way --------------------------------------------------------------------------------

    def way_of(self, request: Request) -> Journey:
        """See the base class."""
        return Journey(request, -1, self.left_tokens)

    def asked_of_prefill(self, way: Journey) -> Request:
        """See the base class."""
        return way.before()

    def take_in(self, way: Journey, request: Request, before: Request) -> None:
        """See the base class."""
        way.prefill = self.pools[0].router.choose(request, self.prefills)
        way.prefill_rank = self.prefills[way.prefill].take(before)

    def before_event(self, time_s: float, posted: int) -> None:
        """See the base class."""
        self._stream(time_s, posted)

    def scheduled(self, journey: Journey, now: float) -> None:
        """See ``PrefillEvents``: with streaming by layer the receiver is chosen when the sender begins."""
        if not self._ends_here(journey):
            self._offer(journey, now)

    def preempted(self, journey: Journey, now: float) -> None:
        """See ``PrefillEvents``: the receiver gives back what it reserved for what is gone."""
        self._stream(now, self._posted)
        journey.attempt += 1
        journey.ready = None
        if journey.offered is None:
            return
        decode = self.decodes[journey.decode]
        decode.catch_up(now)
        decode.members[journey.decode_rank].withdraw(journey.offered)
        journey.offered, journey.decode, journey.reserved_s = None, -1, UNSET
        self._touched = True

    def computed(self, journey: Journey, attempt: int, begun: float, ended: float) -> None:
        """See ``PrefillEvents``."""
        heappush(self._streamed, (ended, self._posted, journey, attempt, begun))
        self._posted += 1

    def prefilled(self, journey: Journey, now: float) -> None:
        """See ``PrefillEvents``."""
        journey.prefilled_s = now
        if self.first_token is FirstToken.PREFILL:
            journey.first_token_s = now
        self._post(now, self._prefilled, journey)

    def reserved(self, journey: Journey, cargo: Cargo, refused: bool, now: float) -> None:
        """See ``DecodeEvents``."""
        self._stream(now, self._posted)
        journey.refused = refused
        journey.reserved_s = now
        journey.cargo = cargo
        self._send(journey)

    def began(self, journey: Journey, cargo: Cargo, refused: bool, now: float) -> None:
        """See ``DecodeEvents``."""
        journey.refused = refused
        journey.reserved_s = journey.arrived_s = now
        self.kept_bytes += cargo.kept_bytes(self.sizes)
        journey.ready = None
        self._post(now, self._sent, journey)

    def finished(self, journey: Journey, request: LiveRequest, now: float) -> None:
        """See ``DecodeEvents``."""
        if self.first_token is FirstToken.DECODE:
            journey.first_token_s = request.first_token_s
        journey.preemptions += request.preemptions
        self.breakdown.add(
            journey.marks(request.first_token_s), journey.room_s if journey.refused else 0.0, journey.lost
        )
        self._row(journey, now)
        journey.offered = None  # two that know each other would outlive the run's use for them

    def _row(self, journey: Journey, now: float) -> None:
        facts = journey.request
        self.recorder.finished(
            RequestRow(
                facts.id, facts.arrival_s, journey.scheduled_s, journey.first_token_s, now,
                facts.prompt_tokens, facts.output_tokens, journey.cached_tokens, journey.preemptions,
            )
        )  # fmt: skip

    # -- handing over -----------------------------------------------------------------------------------

    def _offer(self, journey: Journey, now: float) -> None:
        """Choose a decode instance and queue the request there."""
        for replica in self.decodes:
            replica.catch_up(now)
        facts = journey.after(now, self.first_token)
        journey.decode = self.pools[1].router.choose(facts, self.decodes)
        journey.decode_rank = self.decodes[journey.decode].offer(journey, facts)
        self._touched = True

    def _stream(self, time_s: float, posted: int) -> None:
        """Every prompt that has come to its end by then, and before event number ``posted``, streams out.

        As vLLM's connector does that writes layer by layer (MoRIIO): a prompt computed in several steps is
        sent during the last of them, each layer with all its blocks.
        """
        streamed, layers = self._streamed, self.layers
        while streamed and streamed[0] < (time_s, posted):
            ended, _, journey, attempt, begun = heappop(streamed)
            if attempt == journey.attempt:
                journey.ready = Ready(begun + (ended - begun) / layers, ended, layers)
                self._send(journey)

    def _prefilled(self, journey: Journey, now: float) -> None:
        if self._ends_here(journey):
            self._alone(journey, now)
            return
        if journey.held is None:
            journey.lost = True
            journey.reserved_s = journey.arrived_s = now
            self._offer(journey, now)
        elif not self.layers:
            journey.ready = Ready(now, now, 1)
            self._offer(journey, now)

    def _alone(self, journey: Journey, now: float) -> None:
        """One token was asked for, and the client has it."""
        if journey.held is not None:
            prefill = self.prefills[journey.prefill]
            prefill.catch_up(now)
            prefill.members[journey.prefill_rank].release(journey.held)
        self.breakdown.alone += 1
        self._row(journey, now)

    def _send(self, journey: Journey) -> None:
        """Send what is computed, if the receiver has blocks for it."""
        reserved, ready = journey.reserved_s, journey.ready
        if reserved < 0 or ready is None:
            return
        done = self.fabric.send(
            self.pools[0].adapter_of(journey.prefill, journey.prefill_rank),
            self.pools[1].adapter_of(journey.decode, journey.decode_rank),
            journey.cargo.bytes(self.sizes),
            max(ready.first_s, reserved), max(ready.last_s, reserved), ready.pieces,
        )  # fmt: skip
        self.kept_bytes += journey.cargo.kept_bytes(self.sizes)
        self._post(done, self._arrived, journey)
        journey.ready = None

    def _arrived(self, journey: Journey, now: float) -> None:
        """All of it is there: the sender's blocks are free, the receiver decodes."""
        journey.arrived_s = now
        self._sent(journey, now)
        decode = self.decodes[journey.decode]
        assert journey.offered is not None
        decode.catch_up(now)
        decode.members[journey.decode_rank].arrived(journey.offered, now)

    def _sent(self, journey: Journey, now: float) -> None:
        """The sender's blocks are free."""
        prefill = self.prefills[journey.prefill]
        assert journey.held is not None
        prefill.catch_up(now)
        prefill.members[journey.prefill_rank].release(journey.held)
        journey.held = None

    def _ends_here(self, journey: Journey) -> bool:
        """Whether the token that the prefill instance samples is the last one."""
        return self.first_token is FirstToken.PREFILL and journey.request.output_tokens == 1

    def metrics(self) -> Iterator[Metric]:
        """As the base class; and what prefill instances waited for."""
        yield from super().metrics()
        stalled = sum(prefill.stalled_s for prefill in self.prefills)
        yield Metric(
            "prefill_stalled", stalled, "s",
            "prefill instances had requests and no blocks for them, because computed ones were not yet sent",
        )  # fmt: skip
        held = sum(prefill.peak_held for prefill in self.prefills)
        yield Metric("prefill_peak_held", held, "requests", "computed and not yet sent; sum of peaks")
        yield from self.pool_metrics()
