"""Drafts above SGLang's host memory.

What the drafter keeps of a token is in the host beside what the model does, in the same places, and travels
with it: a page is larger, and nothing else changes. The tree over both memories knows tokens as that of the
device does.
"""

from __future__ import annotations

from kvplan.engine.hicache.index import HierarchicalIndex
from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.hicache.scheduler import HierarchicalScheduler
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.sglang.pool import DraftedPool, DraftedTokenPool
from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica
from kvplan.engine.speculation.sglang.scheduler import DraftedSglangScheduler


class DraftedHierarchicalScheduler(DraftedSglangScheduler, HierarchicalScheduler):
    """Above a cache that goes on in the host."""

    pool: DraftedPool


class DraftedHierarchicalReplica(DraftedSglangReplica, HierarchicalReplica):
    """A replica that verifies drafts, whose radix cache goes on in the host.

    Args:
        config, latency, recorder, rules, acceptance: as of ``DraftedSglangReplica``.
        index: the cache, empty.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, *, rules: DraftRules,
        acceptance: Acceptance, index: HierarchicalIndex,
    ) -> None:  # fmt: skip
        self.rules, self.acceptance = rules, acceptance
        HierarchicalReplica.__init__(self, config, latency, recorder, index)

    def make_scheduler(self) -> DraftedHierarchicalScheduler:
        """Above both memories."""
        pool = DraftedTokenPool(self.config, self.rules.hash_lookahead, self.index)
        made = DraftedHierarchicalScheduler(
            self.config, self.rules, self.acceptance, pool, keep_schedule=self.logging
        )
        self.drafting = self.hierarchical = made
        return made
