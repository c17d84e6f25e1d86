"""Whether vLLM caches prefixes of a model unless it is told."""

from __future__ import annotations

from kvplan.specs.schema import ModelSpec
from kvplan.specs.state import Mamba2State, MambaState

V1 = (0, 8, 0)
"""vLLM's second engine: the first one cached none."""

HYBRIDS = (0, 28, 0)
"""vLLM from here on caches prefixes of recurrent layers beside attention, too: a request holds its last state
and an open one."""

MAMBA = (0, 11, 1)
"""vLLM from here on does so for Mamba's layers if it is told to."""

STATES = (0, 15, 0)
"""And for every other kind."""


def caches_prefixes(model: ModelSpec, version: tuple[int, int, int]) -> bool:
    """vLLM's default; never of models without attention, nor of those that attend to an encoder's tokens."""
    blocks = model.blocks.values()
    encoded = any(block.cross is not None and block.cross.source == "encoder" for block in blocks)
    if version < V1 or encoded or all(block.attention is None for block in blocks):
        return False
    return version >= HYBRIDS or all(block.state is None for block in blocks)


def may_cache_prefixes(model: ModelSpec, version: tuple[int, int, int]) -> bool:
    """Whether vLLM obeys when it is told to; of states it cannot keep it caches none."""
    states = [block.state for block in model.blocks.values() if block.state is not None]
    if not states or version >= STATES:
        return True
    return version >= MAMBA and all(isinstance(item, (MambaState, Mamba2State)) for item in states)
