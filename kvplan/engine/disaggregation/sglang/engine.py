"""SGLang's pools on one clock: what happens to a request between them.

The router gives a request to an instance of either pool when it arrives. What the two tell each other (there
is room, it has come) takes no time here beside the cache; whoever is busy looks after its step.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.engine.disaggregation.breakdown import Breakdown
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.pool import Pool
from kvplan.engine.disaggregation.pools import PoolsEngine
from kvplan.engine.disaggregation.sglang.decode import DecodeReplica
from kvplan.engine.disaggregation.sglang.hosted_ranks import HostedServerRanks
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.payload import NO_PAYLOAD, StatePayload
from kvplan.engine.disaggregation.sglang.prefill import PrefillReplica
from kvplan.engine.disaggregation.sglang.ranks import ServerRanks, router_of
from kvplan.engine.disaggregation.sglang.servers import decode_server, prefill_server
from kvplan.engine.disaggregation.sglang.transit import Transit
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Metric, Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.traces.request import Request

PARTS = {
    "reserve": "from arrival until the decode instance has room for the prompt",
    "queue": "until the prefill instance begins",
    "prefill": "computing the prompt",
    "transfer": "until the cache is on the decode instance",
    "first_decode": "until the decode instance hands the first token out",
}
"""Parts of the way to the first token, in order. They follow each other without a gap."""


PrefillServer = PrefillReplica | ServerRanks[PrefillReplica]
DecodeServer = DecodeReplica | ServerRanks[DecodeReplica]


class SglangPoolsEngine(PoolsEngine[Transit, PrefillServer, DecodeServer]):
    """See the package.

    Args:
        prefill, decode: the pools.
        recorder, route: as of ``PoolsEngine``.
        block_bytes: KV bytes of a page, all layers and ranks together, as stored.
        options: of the decode instances.
        payload: what is sent beside pages.
        host: host memory below every prefill server; None: none.
    """

    def __init__(
        self,
        prefill: Pool,
        decode: Pool,
        recorder: Recorder,
        *,
        route: tuple[Stage, ...],
        block_bytes: int,
        options: DecodeOptions,
        payload: StatePayload = NO_PAYLOAD,
        host: HierarchicalCache | None = None,
    ) -> None:
        self.options = options
        self.payload = payload
        self.host = host
        self.payload_bytes = 0
        self.block_bytes = block_bytes
        self.page = prefill.config.block_size
        breakdown = Breakdown(
            FirstToken.DECODE, PARTS, "waited for room on the decode instance before they were computed",
            "of the time until there was room: where there was none at once",
        )  # fmt: skip
        super().__init__((prefill, decode), recorder, route, breakdown)

    def prefill_instance(self, pool: Pool, recorder: Recorder) -> PrefillServer:
        """One instance of the prefill pool."""
        if pool.ranks is None:
            return self.make_prefill(pool.sglang, pool.latency, recorder)
        router = router_of(pool.ranks, prefills=True)
        kind = ServerRanks if self.host is None else HostedServerRanks
        return kind(pool.ranks.count, router, pool.sglang, pool.latency, recorder, self.make_prefill)

    def decode_instance(self, pool: Pool, recorder: Recorder) -> DecodeServer:
        """One instance of the decode pool."""
        if pool.ranks is None:
            return self.make_decode(pool.sglang, pool.latency, recorder)
        router = router_of(pool.ranks, prefills=False)
        return ServerRanks(pool.ranks.count, router, pool.sglang, pool.latency, recorder, self.make_decode)

    def make_prefill(self, config: SglangConfig, latency: LatencyModel, recorder: Recorder) -> PrefillReplica:
        """A prefill server, or a rank of one."""
        return prefill_server(config, latency, recorder, self, self.pools[0].beside, self.host)

    def make_decode(self, config: SglangConfig, latency: LatencyModel, recorder: Recorder) -> DecodeReplica:
        """A decode server, or a rank of one."""
        return decode_server(config, self.options, latency, recorder, self, self.pools[1].beside)

    # -- a request's way --------------------------------------------------------------------------------

    def way_of(self, request: Request) -> Transit:
        """See the base class."""
        return Transit(request)

    def asked_of_prefill(self, way: Transit) -> Request:
        """See the base class."""
        return way.before

    def take_in(self, way: Transit, request: Request, before: Request) -> None:
        """See the base class."""
        now = request.arrival_s
        for decode in self.decodes:
            decode.catch_up(now)
        way.prefill = self.pools[0].router.choose(request, self.prefills)
        way.decode = self.pools[1].router.choose(request, self.decodes)
        way.prefill_rank = self.prefills[way.prefill].deal(way.before)
        way.decode_rank = self.decodes[way.decode].deal(request)
        computes, decodes = self._prefill_of(way).scheduler, self._decode_of(way).scheduler
        way.reaches(computes.live(way.before), decodes.live(request))
        computes.add(way.held)
        decodes.add(way.offered)

    def _prefill_of(self, way: Transit) -> PrefillReplica:
        return self.prefills[way.prefill].members[way.prefill_rank]

    def _decode_of(self, way: Transit) -> DecodeReplica:
        return self.decodes[way.decode].members[way.decode_rank]

    def reserved(self, transit: Transit, now: float) -> None:
        """See ``DecodeEvents``."""
        transit.reserved_s = now
        self._post(now, self._reserved, transit)

    def _reserved(self, transit: Transit, now: float) -> None:
        self.prefills[transit.prefill].catch_up(now)
        self._prefill_of(transit).prefill.bootstrapped(transit.held)

    def computed(self, transit: Transit, tokens: int, now: float) -> None:
        """See ``PrefillEvents``."""
        final = tokens >= transit.request.prompt_tokens
        pages = -(-tokens // self.page) if final else tokens // self.page
        fresh = pages - transit.sent_pages
        if fresh <= 0 and not final:
            return
        transit.sent_pages = pages
        size = fresh * self.block_bytes
        if final:
            more = self.payload.bytes(transit.request.prompt_tokens, self.page)
            self.payload_bytes += more
            size += more
        sender = self.pools[0].adapter_of(transit.prefill, transit.prefill_rank)
        receiver = self.pools[1].adapter_of(transit.decode, transit.decode_rank)

        def send(transit: Transit, now: float) -> None:
            done = self.fabric.send(sender, receiver, size, now, now)
            if final:
                self._post(done, self._arrived, transit)

        self._post(now, send, transit)

    def _arrived(self, transit: Transit, now: float) -> None:
        """All of it is there: the sender's pages are free, the receiver decodes."""
        transit.arrived_s = now
        self.prefills[transit.prefill].catch_up(now)
        self._prefill_of(transit).prefill.sent(transit.held)
        self.decodes[transit.decode].catch_up(now)
        self._decode_of(transit).decode.arrived(transit.offered)

    def finished(self, transit: Transit, now: float) -> None:
        """See ``DecodeEvents``."""
        held, offered, facts = transit.held, transit.offered, transit.request
        waited = transit.reserved_s - facts.arrival_s if transit.refused else 0.0
        self.breakdown.add(transit.marks(), waited)
        self.recorder.finished(
            RequestRow(
                facts.id, facts.arrival_s, held.scheduled_s, offered.first_token_s, now,
                facts.prompt_tokens, facts.output_tokens, held.cached_tokens, offered.preemptions,
            )
        )  # fmt: skip

    def aborted(self, transit: Transit, now: float) -> None:
        """See ``DecodeEvents``."""
        self.recorder.rejected(transit.request.id, "aborted by the decode instance: out of memory", now)

    # -- what is written down ---------------------------------------------------------------------------

    def metrics(self) -> Iterator[Metric]:
        """As the base class."""
        yield from super().metrics()
        yield from self.pool_metrics()
        if self.options.enable_radix_cache:
            hits = sum(rank.scheduler.hit_tokens for server in self.decodes for rank in server.members)
            yield Metric(
                "decode_hit_tokens",
                hits,
                "tokens",
                "of prompts: decode instances had them, so they are not sent",
            )
        if self.payload != NO_PAYLOAD:
            yield Metric(
                "payload_bytes", self.payload_bytes, "B",
                "of the moved bytes: a request's last window or its recurrent states, sent once",
            )  # fmt: skip
