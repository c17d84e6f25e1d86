"""What a simulation runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.latency.assumption import Assumption
from kvplan.sizing.parallel import Parallel

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig
    from kvplan.sizing.capacity import FitReport
    from kvplan.specs.schema import GpuSpec, ModelSpec


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a simulation runs on; ``model``, ``gpu`` and ``fit`` are None where the scenario names none."""

    model: ModelSpec | None
    gpu: GpuSpec | None
    fit: FitReport | None
    parallel: Parallel
    config: EngineConfig | SglangConfig
    assumptions: tuple[Assumption, ...]
    warnings: tuple[str, ...]

    @property
    def sequence_gpus(self) -> int:
        """GPUs that have a sequence's cache: those of a rank, where attention has ranks."""
        return self.parallel.gpus // self.parallel.sequence_shards

    @property
    def gpu_name(self) -> str:
        """Empty where the scenario names no GPU."""
        return "" if self.gpu is None else self.gpu.name
