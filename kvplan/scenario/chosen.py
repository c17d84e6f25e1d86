"""A strategy that a scenario asks for, and what a result has to say about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.strategy import Strategy
from kvplan.latency.assumption import Assumption

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig


@dataclass(frozen=True, slots=True)
class Chosen:
    """One strategy.

    Attributes:
        strategy: what builds the engine.
        assumptions, warnings: for the result, beside the deployment's.
        instances: options of every engine instance; None: one instance with the deployment's.
        gpus: how many GPUs all instances have together, by name; None: those of the deployment.
        perturbed: the strategy of a member of an ensemble, where the strategy has times of its own (copies,
            transfers, other clocks).
    """

    strategy: Strategy
    assumptions: tuple[Assumption, ...] = ()
    warnings: tuple[str, ...] = ()
    instances: tuple[EngineConfig | SglangConfig, ...] | None = None
    gpus: Mapping[str, int] | None = None
    perturbed: Callable[[Sequence[float]], Strategy] | None = None
