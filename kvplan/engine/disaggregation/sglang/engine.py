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
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.prefill import PrefillReplica
from kvplan.engine.disaggregation.sglang.transit import Transit
from kvplan.engine.recorder import Metric, Recorder, RequestRow
from kvplan.traces.request import Request

PARTS = {
    "reserve": "from arrival until the decode instance has room for the prompt",
    "queue": "until the prefill instance begins",
    "prefill": "computing the prompt",
    "transfer": "until the cache is on the decode instance",
    "first_decode": "until the decode instance hands the first token out",
}
"""Parts of the way to the first token, in order. They follow each other without a gap."""


class SglangPoolsEngine(PoolsEngine[Transit, PrefillReplica, DecodeReplica]):
    """See the package.

    Args:
        prefill, decode: the pools.
        recorder, route, block_bytes: as of ``PoolsEngine``; a block is a page.
        options: of the decode instances.
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
    ) -> None:
        self.options = options
        self.page = prefill.config.block_size
        breakdown = Breakdown(
            FirstToken.DECODE, PARTS, "waited for room on the decode instance before they were computed",
            "of the time until there was room: where there was none at once",
        )  # fmt: skip
        super().__init__((prefill, decode), recorder, route, block_bytes, breakdown)

    def prefill_instance(self, pool: Pool, recorder: Recorder) -> PrefillReplica:
        """One instance of the prefill pool."""
        return PrefillReplica(pool.sglang, pool.latency, recorder, self)

    def decode_instance(self, pool: Pool, recorder: Recorder) -> DecodeReplica:
        """One instance of the decode pool."""
        return DecodeReplica(pool.sglang, self.options, pool.latency, recorder, self)

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
        computes, decodes = self.prefills[way.prefill].scheduler, self.decodes[way.decode].scheduler
        way.reaches(computes.live(way.before), decodes.live(request))
        computes.add(way.held)
        decodes.add(way.offered)

    def reserved(self, transit: Transit, now: float) -> None:
        """See ``DecodeEvents``."""
        transit.reserved_s = now
        self._post(now, self._reserved, transit)

    def _reserved(self, transit: Transit, now: float) -> None:
        prefill = self.prefills[transit.prefill]
        prefill.catch_up(now)
        prefill.prefill.bootstrapped(transit.held)

    def computed(self, transit: Transit, tokens: int, now: float) -> None:
        """See ``PrefillEvents``."""
        final = tokens >= transit.request.prompt_tokens
        pages = -(-tokens // self.page) if final else tokens // self.page
        fresh = pages - transit.sent_pages
        if fresh <= 0:
            return
        transit.sent_pages = pages
        size = fresh * self.block_bytes

        def send(transit: Transit, now: float) -> None:
            done = self.fabric.send(transit.prefill, transit.decode, size, now, now)
            if final:
                self._post(done, self._arrived, transit)

        self._post(now, send, transit)

    def _arrived(self, transit: Transit, now: float) -> None:
        """All of it is there: the sender's pages are free, the receiver decodes."""
        transit.arrived_s = now
        prefill, decode = self.prefills[transit.prefill], self.decodes[transit.decode]
        prefill.catch_up(now)
        prefill.prefill.sent(transit.held)
        decode.catch_up(now)
        decode.decode.arrived(transit.offered)

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
