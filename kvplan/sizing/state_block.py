"""By how many tokens a block of vLLM grows until it holds a recurrent state, and what states are kept in.

Checked by running vLLM's own start-up functions (0.11 to 0.33). Before 0.20 the block that the user gives is
only a lower bound; from then on blocks stay its multiples.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import lcm

from kvplan.sizing.attention import Keeping
from kvplan.sizing.latent_block import BY_KERNEL
from kvplan.sizing.serving import BLACKWELL, Serving
from kvplan.sizing.state import exports_checkpoints
from kvplan.specs.schema import State
from kvplan.specs.state import GatedDeltaNetState, KimiDeltaState, Mamba2State

FROM_GIVEN = (0, 20, 0)
"""Blocks grow by the block size that is given."""
WIDE_LATENTS = (0, 27, 0)
"""Beside latents by 128 tokens at least; before by what their kernel takes."""
CHECKPOINTS = (0, 33, 0)
"""Prefills leave states behind on their way, on a grid that blocks keep to."""
OWN_DTYPES = (0, 13, 0)
"""Mamba-2's states are kept in the dtype that the configuration names; before, in the model's."""

DRAFT_COLUMNS = {GatedDeltaNetState: (0, 11, 0), Mamba2State: (0, 17, 0), KimiDeltaState: (0, 27, 0)}
"""From which versions on a state's convolution has a column for each draft of a step (``mamba_utils.py``)."""

WIDE_HEADS = 256
"""Dimensions of heads of which Blackwell's kernel read no blocks of 16 tokens."""

DELTA_RULE_GRID = 64
"""Tokens between states that the gated delta rule's fused prefill writes."""


def newest_growth(block_size: int, *, latent: bool) -> int:
    """Tokens that a block grows by in the newest versions, where no states are left behind on the way."""
    return max(block_size, 128) if latent else block_size


def state_growth(
    states: Sequence[State],
    serving: Serving,
    *,
    block_size: int,
    head_dims: Collection[int],
    latent: bool,
    cached: bool,
) -> int:
    """Tokens that a block grows by.

    Args:
        states: of every layer that has one; head_dims: of attention; latent: it keeps latents.
        cached: so are prefixes.
    """
    version = serving.version
    if version < FROM_GIVEN:
        wide = WIDE_HEADS in head_dims and serving.capability == BLACKWELL and version < BY_KERNEL
        return 64 if latent else 32 if wide else 16
    step = newest_growth(block_size, latent=latent and version >= WIDE_LATENTS)
    on_grid = all(isinstance(state, GatedDeltaNetState) for state in states)
    fused = all(exports_checkpoints(state, serving.capability) for state in states)
    return lcm(step, DELTA_RULE_GRID) if version >= CHECKPOINTS and cached and on_grid and fused else step


def draft_columns(state: State, serving: Serving) -> int:
    """Columns that a state's convolution has for drafts."""
    since = DRAFT_COLUMNS.get(type(state))
    drafted = serving.kind == "vllm" and since is not None and serving.version >= since
    return serving.decode_tokens - 1 if drafted else 0


def beside_drafts(state: State, keeping: Keeping, drafts: int) -> Keeping:
    """The rules by which vLLM's newest version keeps a state beside drafts; other engines know none."""
    return (
        replace(keeping, drafts=drafts)
        if keeping.engine == "vllm" and type(state) in DRAFT_COLUMNS
        else keeping
    )


def served_state(state: State, serving: Serving) -> State:
    """The state as this version keeps it."""
    if serving.kind == "vllm" and serving.version < OWN_DTYPES and isinstance(state, Mamba2State):
        return state.model_copy(update={"recurrent_dtype": None})
    return state
