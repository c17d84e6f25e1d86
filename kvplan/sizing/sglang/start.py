"""A start of SGLang, as far as its defaults depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kvplan.sizing.sglang.names import Version
from kvplan.specs.schema import GpuSpec, ModelSpec

Drafts = Literal["none", "layers", "model"]
"""Who drafts: nobody, the model's own layers, another model."""

SEQUENCES = 2048
"""Requests that may run at a time where nobody says, as long as nothing is known of the pool."""
SEQUENCES_BESIDE_DRAFTS = 48
"""The same while drafting, whatever the pool (``_handle_eagle_family``; 0.5.1 on)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a start; ``None`` where nobody said.

    ``ranks``: of data-parallel attention, 1 without. ``context``: only where it is said.
    """

    version: Version
    gpu: GpuSpec
    model: ModelSpec | None = None
    tp: int = 1
    pp: int = 1
    ranks: int = 1
    drafts: Drafts = "none"
    chunk: int | None = None
    running: int | None = None
    context: int | None = None
    graphs: bool = True

    @property
    def memory_mib(self) -> int:
        """Of the GPU."""
        return self.gpu.usable_memory_bytes >> 20
