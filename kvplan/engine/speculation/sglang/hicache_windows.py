"""Drafts above SGLang's host memory for a model with sliding windows."""

from __future__ import annotations

from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.hicache.windows.index import HostedWindowIndex
from kvplan.engine.hicache.windows.replica import HostedWindowReplica
from kvplan.engine.hicache.windows.scheduler import HostedWindowScheduler
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica
from kvplan.engine.speculation.sglang.windows import DraftedWindowPool, DraftedWindowScheduler


class DraftedHostedWindowScheduler(DraftedWindowScheduler, HostedWindowScheduler):
    """Above tokens and windows in two memories."""

    pool: DraftedWindowPool


class DraftedHostedWindowReplica(DraftedSglangReplica, HostedWindowReplica):
    """A replica that verifies drafts, whose tokens and windows go on in the host.

    Args:
        config, latency, recorder, rules, acceptance: as of ``DraftedSglangReplica``.
        windows: the device's pool for windows.
        index: the cache, empty.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, *, rules: DraftRules,
        acceptance: Acceptance, windows: SlidingWindows, index: HostedWindowIndex,
    ) -> None:  # fmt: skip
        self.rules, self.acceptance, self.windows = rules, acceptance, windows
        self.peak_full = self.peak_windows = 0
        HierarchicalReplica.__init__(self, config, latency, recorder, index)

    def make_scheduler(self) -> DraftedHostedWindowScheduler:
        """Above four pools."""
        pool = DraftedWindowPool(self.config, self.windows, self.rules.hash_lookahead, self.index)
        made = DraftedHostedWindowScheduler(
            self.config, self.rules, self.acceptance, pool, keep_schedule=self.logging
        )
        self.drafting = self.windowed = self.hierarchical = made
        return made
