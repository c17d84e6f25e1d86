"""An SGLang engine for a model with recurrent layers, with host memory."""

from __future__ import annotations

from kvplan.engine.hicache.metrics import state_metrics
from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.hicache.states.index import HostedStateIndex
from kvplan.engine.hicache.states.scheduler import HostedStateScheduler
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.pool import StatePool
from kvplan.engine.sglang_states.replica import StateReplica
from kvplan.engine.sglang_states.rules import StateRules


class HostedStateReplica(StateReplica, HierarchicalReplica):
    """A replica whose tokens and states go on in the host.

    Args:
        config, latency, recorder: as of ``SglangReplica``.
        rules: of its states.
        index: the cache, empty.
    """

    index: HostedStateIndex

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, rules: StateRules,
        index: HostedStateIndex,
    ) -> None:  # fmt: skip
        self.state_rules = rules
        HierarchicalReplica.__init__(self, config, latency, recorder, index)

    def make_scheduler(self) -> HostedStateScheduler:
        """Above four pools."""
        pool = StatePool(self.config, self.state_rules, self.index)
        made = HostedStateScheduler(self.config, pool, keep_schedule=self.logging)
        self.states = self.hierarchical = made
        return made

    def close(self) -> None:
        """As the base classes; the section ``tiers`` tells of the host's states, too."""
        super().close()
        self.recorder.sections["tiers"] += state_metrics(self)
