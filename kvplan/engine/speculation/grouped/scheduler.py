"""vLLM's scheduler with drafts and its own connector for host memory, on a cache of several groups."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.offloading.grouped.host import HostChunks
from kvplan.engine.offloading.grouped.scheduler import GroupedScheduler
from kvplan.engine.remote.source import KvSource
from kvplan.engine.speculation.grouped.cache import DraftHandingCache
from kvplan.engine.speculation.numbered import DraftNumberedLoads
from kvplan.engine.speculation.scheduler import HybridDraftScheduler
from kvplan.engine.speculation.strategy import Speculation


class DraftGroupedScheduler(GroupedScheduler, DraftNumberedLoads):
    """See the package."""

    def __init__(
        self,
        config: EngineConfig,
        source: KvSource,
        host: HostChunks,
        chunk_blocks: int,
        drafts: Speculation,
        *,
        keep_schedule: bool = False,
    ) -> None:
        HybridDraftScheduler.__init__(
            self, config, drafts.rules, drafts.acceptance, keep_schedule=keep_schedule
        )
        self.connect(source)
        self.offload(host, chunk_blocks)

    def make_cache(self) -> DraftHandingCache:
        """As the base class, with states that are handed on."""
        self.numbered = cache = DraftHandingCache(self.config, self.rules)
        return cache
