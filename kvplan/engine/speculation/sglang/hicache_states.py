"""Drafts above SGLang's host memory for a model with recurrent layers."""

from __future__ import annotations

from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.hicache.states.index import HostedStateIndex
from kvplan.engine.hicache.states.replica import HostedStateReplica
from kvplan.engine.hicache.states.scheduler import HostedStateScheduler
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica
from kvplan.engine.speculation.sglang.states import DraftedStatePool, DraftedStateScheduler


class DraftedHostedStateScheduler(DraftedStateScheduler, HostedStateScheduler):
    """Above tokens and states in two memories."""

    pool: DraftedStatePool


class DraftedHostedStateReplica(DraftedSglangReplica, HostedStateReplica):
    """A replica that verifies drafts, whose tokens and states go on in the host.

    Args:
        config, latency, recorder, rules, acceptance: as of ``DraftedSglangReplica``.
        states: of its states.
        index: the cache, empty.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, *, rules: DraftRules,
        acceptance: Acceptance, states: StateRules, index: HostedStateIndex,
    ) -> None:  # fmt: skip
        self.rules, self.acceptance, self.state_rules = rules, acceptance, states
        HierarchicalReplica.__init__(self, config, latency, recorder, index)

    def make_scheduler(self) -> DraftedHostedStateScheduler:
        """Above four pools."""
        pool = DraftedStatePool(self.config, self.state_rules, self.index)
        made = DraftedHostedStateScheduler(
            self.config, self.rules, self.acceptance, pool, keep_schedule=self.logging
        )
        self.drafting = self.states = self.hierarchical = made
        return made
