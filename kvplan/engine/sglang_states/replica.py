"""An SGLang engine for a model with recurrent layers."""

from __future__ import annotations

from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.sglang_states.metrics import SECTION, StateFigures
from kvplan.engine.sglang_states.pool import StatePool
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.scheduler import StateScheduler


class StateReplica(SglangReplica):
    """A replica that has slots for states beside its tokens.

    Args:
        config, latency, recorder: as of ``SglangReplica``.
        rules: of its states.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, rules: StateRules
    ) -> None:
        self.state_rules = rules
        super().__init__(config, latency, recorder)

    def make_scheduler(self) -> StateScheduler:
        """Above both pools."""
        pool = StatePool(self.config, self.state_rules)
        self.states = StateScheduler(self.config, pool, keep_schedule=self.logging)
        return self.states

    def close(self) -> None:
        """Bring the totals up to date, and report what became of states."""
        super().close()
        scheduler, pool = self.states, self.states.pool
        figures = StateFigures(
            slots=pool.slots, each=1 + pool.spares, peak_held=pool.peak_held, peak_used=pool.peak_used,
            cached=pool.index.states, evicted=pool.index.evicted_states, orphaned=pool.index.orphaned,
            matched=scheduler.passed_tokens, hits=scheduler.found_tokens, cut_short=scheduler.cut_short,
        )  # fmt: skip
        self.recorder.sections[SECTION] = figures.metrics()
