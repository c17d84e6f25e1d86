"""Drafts on SGLang's prefill and decode servers.

Both have the drafter, whose cache is sent along page by page. On the prefill server it computes the prompt
and the first draft behind it, which comes with the cache: a decode server verifies drafts from its first step
on. With that a request has places for two steps of drafts, as on one engine. What is asked and kept for
prompts on their way counts none of them (``_required_admission_tokens``), nor does what can be retracted.
"""

from __future__ import annotations

from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.pool import Pool
from kvplan.engine.disaggregation.sglang.decode import DecodeEvents, DecodeReplica, DecodeScheduler
from kvplan.engine.disaggregation.sglang.engine import SglangPoolsEngine
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.prefill import PrefillEvents, PrefillReplica, PrefillScheduler
from kvplan.engine.disaggregation.sglang.transit import HANDED_COUNTERS, HandedRequest
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.speculation.drafted import Drafted
from kvplan.engine.speculation.metrics import SECTION, metrics
from kvplan.engine.speculation.sglang.pool import DraftedPool
from kvplan.engine.speculation.sglang.request import DRAFT_COUNTERS, DraftedRequest
from kvplan.engine.speculation.sglang.scheduler import DraftedSglangScheduler
from kvplan.engine.speculation.strategy import Speculation


class DraftedHandedRequest(DraftedRequest, HandedRequest):
    """A request with drafts as one of the two servers sees it."""

    __slots__ = (*DRAFT_COUNTERS, *HANDED_COUNTERS)


class DraftedPrefillScheduler(PrefillScheduler, DraftedSglangScheduler):
    """Nothing is verified here; EAGLE's radix tree knows a token by the one behind it, too."""

    request_type: type[DraftedRequest] = DraftedHandedRequest

    def __init__(
        self, config: SglangConfig, drafts: Speculation, pool: DraftedPool | None = None, *,
        keep_schedule: bool,
    ) -> None:  # fmt: skip
        DraftedSglangScheduler.__init__(
            self, config, drafts.rules, drafts.acceptance, pool, keep_schedule=keep_schedule
        )
        self.open_queues()


class DraftedPrefillReplica(PrefillReplica):
    """One instance of a prefill pool that has the drafter."""

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, events: PrefillEvents,
        drafts: Speculation,
    ) -> None:  # fmt: skip
        self.drafts = drafts
        super().__init__(config, latency, recorder, events)

    def make_scheduler(self) -> PrefillScheduler:
        """See the base class."""
        self.prefill = DraftedPrefillScheduler(self.config, self.drafts, keep_schedule=self.logging)
        return self.prefill


class DraftedDecodeScheduler(DecodeScheduler, DraftedSglangScheduler):
    """Who joins the batch has its first drafts already."""

    request_type = DraftedHandedRequest

    def __init__(
        self, config: SglangConfig, options: DecodeOptions, drafts: Speculation, *, keep_schedule: bool
    ) -> None:
        DraftedSglangScheduler.__init__(
            self, config, drafts.rules, drafts.acceptance, keep_schedule=keep_schedule
        )
        self.open_queues(options)


class DraftedDecodeReplica(DecodeReplica):
    """One instance of a decode pool that verifies drafts: every step is planned."""

    def __init__(
        self, config: SglangConfig, options: DecodeOptions, latency: LatencyModel, recorder: Recorder,
        events: DecodeEvents, drafts: Speculation,
    ) -> None:  # fmt: skip
        self.drafts = drafts
        super().__init__(config, options, latency, recorder, events)

    def make_scheduler(self) -> DecodeScheduler:
        """See the base class."""
        made = DraftedDecodeScheduler(self.config, self.options, self.drafts, keep_schedule=self.logging)
        self.decode = self.drafting = made
        return made

    def quiet(self) -> bool:
        """See the base class."""
        return False


class SglangDraftingPools(SglangPoolsEngine):
    """A ``SglangPoolsEngine`` both of whose pools have the drafter; those of decode verify.

    Args:
        drafts: as on one engine; the others as of ``SglangPoolsEngine``.
    """

    def __init__(
        self,
        drafts: Speculation,
        prefill: Pool,
        decode: Pool,
        recorder: Recorder,
        *,
        route: tuple[Stage, ...],
        block_bytes: int,
        options: DecodeOptions,
        host: HierarchicalCache | None = None,
    ) -> None:
        self.drafts = drafts
        super().__init__(
            prefill, decode, recorder, route=route, block_bytes=block_bytes, options=options, host=host
        )

    def make_prefill(self, config: SglangConfig, latency: LatencyModel, recorder: Recorder) -> PrefillReplica:
        """See the base class."""
        if self.host is None:
            return DraftedPrefillReplica(config, latency, recorder, self, self.drafts)
        from kvplan.engine.speculation.sglang.hosted_pools import DraftedHostedPrefillReplica

        index = self.host.index(config)
        return DraftedHostedPrefillReplica(config, latency, recorder, self, self.drafts, index)

    def make_decode(self, config: SglangConfig, latency: LatencyModel, recorder: Recorder) -> DecodeReplica:
        """See the base class."""
        return DraftedDecodeReplica(config, self.options, latency, recorder, self, self.drafts)

    def close(self) -> None:
        """As the base class, and report what became of drafts on decode instances."""
        super().close()
        found = Drafted(self.drafts.rules.tokens)
        for decode in (rank for server in self.decodes for rank in server.members):
            assert isinstance(decode, DraftedDecodeReplica)
            found.add(decode.drafting.drafted)
        self.recorder.sections[SECTION] = metrics(found)
