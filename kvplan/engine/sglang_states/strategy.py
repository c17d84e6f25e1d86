"""Recurrent states as a strategy of SGLang's engine: plain values a deployment is translated to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.replica import StateReplica
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine


@dataclass(frozen=True, slots=True)
class RecurrentStates:
    """A model with recurrent layers below SGLang's scheduler.

    Attributes:
        rules: of its states.
    """

    behind_router: ClassVar[bool] = True
    asks_once: ClassVar[bool] = True
    one_by_one: ClassVar[bool] = True
    rules: StateRules

    @property
    def name(self) -> str:
        """As messages call it."""
        return "SGLang with recurrent states"

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> StateReplica:
        """Not below vLLM.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "this pool of states is SGLang's; vLLM keeps states in blocks",
            where="engine.kind",
            hint="use sglang",
        )

    def sglang_engine(self, config: SglangConfig, latency: LatencyModel, recorder: Recorder) -> StateReplica:
        """One replica with a pool of states.

        Raises:
            UsageError: see ``StateRules.check``.
        """
        self.rules.check(config)
        return StateReplica(config, latency, recorder, self.rules)

    def sglang_reference(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder
    ) -> ReferenceSglangEngine:
        """Its oracle.

        Raises:
            UsageError: see ``StateRules.check``.
        """
        from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
        from kvplan.engine.reference.sglang_states import ReferenceStateScheduler

        self.rules.check(config)
        scheduler = ReferenceStateScheduler(config, self.rules)
        return ReferenceSglangEngine(config, latency, recorder, scheduler=scheduler)
