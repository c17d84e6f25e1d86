"""An engine instance with drafts above any source of KV."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.remote.source import KvSource
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.loading import DraftRemoteScheduler, Loading
from kvplan.engine.speculation.rules import DraftRules


class DraftRemoteReplica(Loading):
    """One with a source of its own.

    Args:
        config, latency, recorder, source: as of ``RemoteReplica``.
        rules: of the way of drafting on an engine of its own. acceptance: how many drafts stand.
    """

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        source: KvSource,
        *,
        rules: DraftRules,
        acceptance: Acceptance,
    ) -> None:
        self.rules, self.acceptance = rules.with_connector(), acceptance
        super().__init__(config, latency, recorder, source)

    def make_scheduler(self) -> DraftRemoteScheduler:
        """See the base class."""
        scheduler = DraftRemoteScheduler(
            self.config, self.source, self.rules, self.acceptance, keep_schedule=self.logging
        )
        self.drafting = scheduler
        return scheduler
