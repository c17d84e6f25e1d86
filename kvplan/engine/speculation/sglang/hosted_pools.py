"""Drafts on SGLang's prefill servers above host memory: what the drafter keeps travels along."""

from __future__ import annotations

from kvplan.engine.disaggregation.sglang.hosted import (
    HOSTED_COUNTERS,
    HostedHandedRequest,
    HostedPrefillReplica,
    HostedPrefillScheduler,
)
from kvplan.engine.disaggregation.sglang.prefill import PrefillEvents
from kvplan.engine.hicache.index import HierarchicalIndex
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.speculation.sglang.pool import DraftedPool, DraftedTokenPool
from kvplan.engine.speculation.sglang.pools import DraftedPrefillScheduler
from kvplan.engine.speculation.sglang.request import DRAFT_COUNTERS, DraftedRequest
from kvplan.engine.speculation.strategy import Speculation


class DraftedHostedHandedRequest(DraftedRequest, HostedHandedRequest):
    """A request with drafts."""

    __slots__ = (*DRAFT_COUNTERS, *HOSTED_COUNTERS)


class DraftedHostedPrefillScheduler(HostedPrefillScheduler, DraftedPrefillScheduler):
    """Above a cache that goes on in the host and knows tokens as drafts want it."""

    request_type = DraftedHostedHandedRequest

    def __init__(
        self, config: SglangConfig, drafts: Speculation, pool: DraftedPool, *, keep_schedule: bool
    ) -> None:
        DraftedPrefillScheduler.__init__(self, config, drafts, pool, keep_schedule=keep_schedule)
        self.open_host()


class DraftedHostedPrefillReplica(HostedPrefillReplica):
    """One instance of a prefill pool that has the drafter, whose radix cache goes on in the host.

    Args:
        config, latency, recorder, events: as of ``PrefillReplica``.
        drafts: what both pools draft with.
        index: the cache, empty.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, events: PrefillEvents,
        drafts: Speculation, index: HierarchicalIndex,
    ) -> None:  # fmt: skip
        self.drafts = drafts
        super().__init__(config, latency, recorder, events, index)

    def make_scheduler(self) -> DraftedHostedPrefillScheduler:
        """See the base class."""
        pool = DraftedTokenPool(self.config, self.drafts.rules.hash_lookahead, self.index)
        made = DraftedHostedPrefillScheduler(self.config, self.drafts, pool, keep_schedule=self.logging)
        self.prefill = self.hierarchical = made
        return made
