"""An engine instance that drafts, and offloads a cache of several groups."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.offloading.connector import ConnectorScheduler
from kvplan.engine.offloading.grouped.host import HostChunks
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.replacement.foresight import Foresight
from kvplan.engine.speculation.grouped.scheduler import DraftGroupedScheduler
from kvplan.engine.speculation.loading import Loading
from kvplan.engine.speculation.strategy import Speculation
from kvplan.engine.tiers.line import Line


class DraftGroupedReplica(Loading, OffloadingReplica):
    """A replica with vLLM's offloading connector whose requests have drafts, whatever groups its cache has.

    Args:
        config, latency, recorder, chunk_blocks, put, get: as of ``OffloadingReplica``.
        host: the host's cache, empty.
        drafts: with the rules beside a connector.
    """

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        host: HostChunks,
        chunk_blocks: int,
        put: Line,
        get: Line,
        drafts: Speculation,
    ) -> None:
        self.drafts = drafts
        self.host = host
        super().__init__(config, latency, recorder, host, chunk_blocks, put, get)

    def make_scheduler(self, foresight: Foresight | None) -> ConnectorScheduler:
        """See the base class."""
        scheduler = DraftGroupedScheduler(
            self.config, self, self.host, self.chunk_blocks, self.drafts, keep_schedule=self.logging
        )
        self.offloading = self.drafting = self.grouped = scheduler
        return scheduler
