"""Which recurrent states SGLang keeps for its prefix cache: at which places, and how requests have them.

Read from ``overrides.py`` (``_mamba_radix_cache_resolution``, ``mamba_cache_chunk_size``) and the
configuration classes of 0.5.14 to 0.5.23.
"""

from __future__ import annotations

from kvplan.sizing.serving import Serving
from kvplan.sizing.sglang.names import named, named_since
from kvplan.sizing.sglang.page import SPARE_STATE_MODELS
from kvplan.specs.schema import ModelSpec
from kvplan.specs.state import Mamba2State

LAST_STATE_MODELS = ("lfm2", "jetnemotron", "jetvlm", "zaya", "gigachat35", "interns2mobius")
"""Models of the radix cache with states whose kernels leave none on their way."""

KERNEL_CHUNK = 64
"""Tokens after which the kernels of linear attention have a state."""
CLASS_CHUNK = 256
"""The same of Mamba-2 where the configuration does not say it (Nemotron-H, Granite 4, Falcon-H1)."""


def caches_states(model: ModelSpec, serving: Serving) -> bool:
    """Whether the radix cache of this version knows the model's states."""
    return named_since(model, SPARE_STATE_MODELS, serving.version) or named(model, *LAST_STATE_MODELS)


def state_chunk(model: ModelSpec) -> tuple[int, bool]:
    """Tokens after which the kernels of prefill have a state; and whether that is known of the model."""
    for block in model.layers():
        if isinstance(block.state, Mamba2State):
            return block.state.chunk_size or CLASS_CHUNK, block.state.chunk_size is not None
    return KERNEL_CHUNK, True
