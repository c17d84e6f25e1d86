"""An engine instance that offloads a cache of several groups."""

from __future__ import annotations

from typing import cast

from kvplan.engine.offloading.grouped.host import HostChunks
from kvplan.engine.offloading.grouped.scheduler import GroupedScheduler
from kvplan.engine.offloading.replica import OffloadingReplica


class GroupedReplica(OffloadingReplica):
    """A replica with vLLM's offloading connector, whatever groups its cache has."""

    def make_scheduler(self) -> GroupedScheduler:
        """As the base class."""
        self.grouped = GroupedScheduler(
            self.config,
            self,
            cast(HostChunks, self.cache),
            self.chunk_blocks,
            keep_schedule=self.logging,
        )
        self.offloading = self.grouped
        return self.grouped
