"""Drafts above vLLM's own host memory (``offloading``), on a cache of one full-attention group.

Several groups or modules: ``grouped``. What ``loading`` says of drafts and loads holds here. Beside that:

- The layers that draft lie in the group of the model's own, so vLLM takes all of it for theirs: of the chunks
  that a look-up finds in a row, the last is not loaded. (It does not where the drafter is another model.)
- Only prompts are stored, whatever stands of drafts; the drafter's cache is stored with the model's.
- Loads begin when the model's part of their step has ended, stores when its drafts are made, too.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.config import EngineConfig
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.connector import ConnectorScheduler
from kvplan.engine.offloading.memory import HostMemory
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.offloading.scheduler import OffloadingScheduler
from kvplan.engine.offloading.use import Use
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.remote.source import KvSource
from kvplan.engine.speculation.loading import DraftRemoteScheduler, Loading
from kvplan.engine.speculation.strategy import Speculation
from kvplan.engine.tiers.line import Line


class DraftOffloadingScheduler(OffloadingScheduler, DraftRemoteScheduler):
    """See the module."""

    def __init__(
        self,
        config: EngineConfig,
        source: KvSource,
        cache: HostCache,
        chunk_blocks: int,
        drafts: Speculation,
        *,
        keep_schedule: bool = False,
    ) -> None:
        DraftRemoteScheduler.__init__(
            self, config, source, drafts.rules, drafts.acceptance, keep_schedule=keep_schedule
        )
        self.offload(cache, chunk_blocks)

    def ready_chunks(self, use: Use, first: int, end: int) -> tuple[int, bool, bool]:
        """As the base class; drafting layers leave the last one out."""
        found, pending, read = super().ready_chunks(use, first, end)
        if pending or not found or not self.rules.drops_block:
            return found, pending, read
        return super().ready_chunks(use, first, first + found - 1)


class DraftOffloadingReplica(Loading, OffloadingReplica):
    """A replica with vLLM's offloading connector whose requests have drafts.

    Args:
        config, latency, recorder, cache, chunk_blocks, put, get: as of ``OffloadingReplica``.
        drafts: with the rules beside a connector.
    """

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        cache: HostMemory,
        chunk_blocks: int,
        put: Line,
        get: Line,
        drafts: Speculation,
    ) -> None:
        self.drafts = drafts
        super().__init__(config, latency, recorder, cache, chunk_blocks, put, get)

    def make_scheduler(self) -> ConnectorScheduler:
        """See the base class."""
        scheduler = DraftOffloadingScheduler(
            self.config, self, cast(HostCache, self.cache), self.chunk_blocks, self.drafts,
            keep_schedule=self.logging,
        )  # fmt: skip
        self.offloading = self.drafting = scheduler
        return scheduler
