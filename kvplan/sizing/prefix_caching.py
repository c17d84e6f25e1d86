"""Whether vLLM caches prefixes of a model unless it is told."""

from __future__ import annotations

from kvplan.specs.schema import ModelSpec

V1 = (0, 8, 0)
"""vLLM's second engine: the first one cached none."""

HYBRIDS = (0, 26, 0)
"""vLLM from here on caches prefixes of recurrent layers beside attention, too: a request holds its last state
and an open one."""


def caches_prefixes(model: ModelSpec, version: tuple[int, int, int]) -> bool:
    """vLLM's default; never of models without attention."""
    blocks = model.blocks.values()
    if version < V1 or all(block.attention is None for block in blocks):
        return False
    return version >= HYBRIDS or all(block.state is None for block in blocks)
