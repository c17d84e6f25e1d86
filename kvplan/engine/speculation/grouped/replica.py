"""An engine instance that drafts, and offloads a cache of several groups."""

from __future__ import annotations

from typing import cast

from kvplan.engine.offloading.connector import ConnectorScheduler
from kvplan.engine.offloading.grouped.host import HostChunks
from kvplan.engine.speculation.grouped.scheduler import DraftGroupedScheduler
from kvplan.engine.speculation.offloading import DraftOffloadingReplica


class DraftGroupedReplica(DraftOffloadingReplica):
    """One with vLLM's offloading connector whose requests have drafts, whatever groups its cache has."""

    def make_scheduler(self) -> ConnectorScheduler:
        """See the base class."""
        scheduler = DraftGroupedScheduler(
            self.config, self, cast(HostChunks, self.cache), self.chunk_blocks, self.drafts,
            keep_schedule=self.logging,
        )  # fmt: skip
        self.offloading = self.drafting = self.grouped = scheduler
        return scheduler
