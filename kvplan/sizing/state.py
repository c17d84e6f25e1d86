"""Constant state per sequence: convolution tails and recurrent matrices, with each engine's dtypes.

Engines agree on the shapes and differ in two habits (measured; see the documentation of sizes):

* transformers keeps all ``conv_kernel`` columns of a convolution and the recurrent part in fp32;
* vLLM and SGLang keep the ``conv_kernel - 1`` columns that are needed; vLLM keeps the recurrent part in the
  dtype the configuration names, else in the model's; Kimi delta attention in fp32 either way. Where drafts
  are verified, vLLM keeps a column for each of them, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kvplan.sizing.attention import DTYPE_BYTES, Keeping, is_paged
from kvplan.specs.state import (
    ConvolvedAttentionState,
    GatedDeltaNetState,
    KimiDeltaState,
    LinearAttentionState,
    Mamba2State,
    MambaState,
    MatrixMemoryState,
    RecurrentState,
    RwkvState,
    ShortConvState,
    State,
    WkvState,
)

CHECKPOINTING = (9, 10, 12)
"""Major compute capabilities for which vLLM takes the delta rules' fused prefill kernels."""


@dataclass(frozen=True, slots=True)
class StatePart:
    """One tensor of a layer's state: its elements, bytes each, and the product that gives them.

    ``replicated`` elements are held by every tensor-parallel rank on top of its share.
    """

    name: str
    elements: int
    element_bytes: int
    formula: str

    @property
    def bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.elements * self.element_bytes


def state_parts(state: State, keeping: Keeping, tp: int = 1) -> tuple[StatePart, ...]:
    """The tensors one layer keeps for one sequence on one of ``tp`` ranks (``tp`` = 1: all of it)."""
    return _PARTS[type(state)](state, keeping, tp)


def state_bytes(state: State, keeping: Keeping, tp: int = 1) -> int:
    """Bytes of one layer's state for one sequence on one of ``tp`` ranks."""
    return sum(part.bytes for part in state_parts(state, keeping, tp))


def exports_checkpoints(state: State, capability: int = 0) -> bool:
    """Whether vLLM 0.33's prefill kernel writes states at the ends of blocks on the way.

    Mamba-2's does everywhere; those of the delta rules do on NVIDIA GPUs of ``capability`` 9, 10 and 12.
    """
    if isinstance(state, KimiDeltaState):
        return state.bounded_gate and state.head_dim == 128 and capability in CHECKPOINTING
    if isinstance(state, GatedDeltaNetState):
        fused = capability == 9 or (state.key_head_dim == 128 and capability in CHECKPOINTING)
        return fused and not state.negative_eigenvalues
    return isinstance(state, Mamba2State)


def shard_sizes(state: State) -> tuple[int, ...]:
    """What tensor parallelism must divide: heads or channels, by kind."""
    if isinstance(state, (MambaState, RecurrentState)):
        return (state.inner_size,)
    if isinstance(state, GatedDeltaNetState):
        return (state.key_heads, state.value_heads)
    if isinstance(state, ShortConvState):
        return (state.channels,)
    if isinstance(state, (WkvState, ConvolvedAttentionState)):
        return ()
    return (state.heads,)


def shared_groups(state: State) -> int:
    """Groups of B and C that tensor parallelism must divide: engines copy one to all ranks, but no more.

    vLLM 0.33 and SGLang assert it as they build a Mamba-2 mixer; 1 where nothing is divided.
    """
    return state.groups if isinstance(state, Mamba2State) else 1


def _columns(kernel: int, keeping: Keeping) -> int:
    return kernel if keeping.engine == "transformers" else kernel - 1 + keeping.drafts


def _recurrent_bytes(state: State, keeping: Keeping, *, always_fp32: bool = False) -> int:
    if keeping.engine == "transformers" or always_fp32:
        return 4
    if state.recurrent_dtype is not None:
        return DTYPE_BYTES[state.recurrent_dtype]
    # SGLang's default for the recurrent part is fp32; vLLM follows the model; the ideal is the safe fp32.
    return keeping.dtype_bytes if keeping.engine == "vllm" else 4


def _convolution(channels: int, kernel: int, keeping: Keeping) -> StatePart:
    columns, size = _columns(kernel, keeping), keeping.dtype_bytes
    return StatePart("convolution", channels * columns, size, f"{channels} x {columns} x {size}")


def _mamba(state: MambaState, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    inner, size = state.inner_size // tp, _recurrent_bytes(state, keeping)
    recurrent = StatePart(
        "recurrent", inner * state.state_size, size, f"{inner} x {state.state_size} x {size}"
    )
    return (_convolution(inner, state.conv_kernel, keeping), recurrent)


def _mamba2(state: Mamba2State, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    heads, size = state.heads // tp, _recurrent_bytes(state, keeping)
    # A group's B and C are needed by every rank that holds one of its heads.
    groups = state.groups // tp if state.groups % tp == 0 else 1
    channels = heads * state.head_dim + 2 * groups * state.state_size
    elements = heads * state.head_dim * state.state_size
    formula = f"{heads} x {state.head_dim} x {state.state_size} x {size}"
    return (
        _convolution(channels, state.conv_kernel, keeping),
        StatePart("recurrent", elements, size, formula),
    )


def _gated_delta_net(state: GatedDeltaNetState, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    heads, size = state.value_heads // tp, _recurrent_bytes(state, keeping)
    elements = heads * state.key_head_dim * state.value_head_dim
    formula = f"{heads} x {state.key_head_dim} x {state.value_head_dim} x {size}"
    return (
        _convolution(state.conv_channels // tp, state.conv_kernel, keeping),
        StatePart("recurrent", elements, size, formula),
    )


def _kimi_delta(state: KimiDeltaState, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    heads = state.heads // tp
    size = _recurrent_bytes(state, keeping, always_fp32=state.recurrent_dtype is None)
    elements = heads * state.head_dim * state.head_dim
    formula = f"{heads} x {state.head_dim} x {state.head_dim} x {size}"
    return (
        _convolution(state.conv_channels // tp, state.conv_kernel, keeping),
        StatePart("recurrent", elements, size, formula),
    )


def _linear(state: LinearAttentionState, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    # transformers accumulates lightning attention in the model's dtype.
    size = keeping.dtype_bytes if keeping.engine == "transformers" else _recurrent_bytes(state, keeping)
    heads = state.heads // tp
    elements = heads * state.key_head_dim * state.value_head_dim
    formula = f"{heads} x {state.key_head_dim} x {state.value_head_dim} x {size}"
    return (StatePart("recurrent", elements, size, formula),)


def _rwkv(state: RwkvState, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    heads, size = state.heads // tp, keeping.dtype_bytes
    shift = StatePart(
        "token shift",
        state.shifts * state.hidden_size,
        size,
        f"{state.shifts} x {state.hidden_size} x {size}",
    )
    formula = f"{heads} x {state.head_dim} x {state.head_dim} x 4"
    return (shift, StatePart("recurrent", heads * state.head_dim * state.head_dim, 4, formula))


def _rwkv4(state: WkvState, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    size = keeping.dtype_bytes
    return (
        StatePart("token shift", 2 * state.hidden_size, size, f"2 x {state.hidden_size} x {size}"),
        StatePart("recurrent", 3 * state.inner_size, 4, f"3 x {state.inner_size} x 4"),
    )


def _mlstm(state: MatrixMemoryState, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    heads, key, size = state.heads // tp, state.key_head_dim, keeping.dtype_bytes
    matrices = heads * key * state.value_head_dim
    return (
        StatePart("recurrent", matrices, size, f"{heads} x {key} x {state.value_head_dim} x {size}"),
        StatePart("normaliser", heads * (key + 1), size, f"{heads} x ({key} + 1) x {size}"),
    )


def _rglru(state: RecurrentState, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    inner, columns, size = state.inner_size // tp, state.conv_kernel - 1, keeping.dtype_bytes
    return (
        StatePart("convolution", inner * columns, size, f"{inner} x {columns} x {size}"),
        StatePart("recurrent", inner, 4, f"{inner} x 4"),
    )


def _short_conv(state: ShortConvState, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    if is_paged(state, keeping):
        return ()  # in pages, as a store
    part = _convolution(state.channels // tp, state.conv_kernel, keeping)
    if state.recurrent_dtype is None:
        return (part,)
    size, columns = DTYPE_BYTES[state.recurrent_dtype], _columns(state.conv_kernel, keeping)
    formula = f"{state.channels // tp} x {columns} x {size}"
    return (replace(part, element_bytes=size, formula=formula),)


def _convolved_attention(state: ConvolvedAttentionState, keeping: Keeping, tp: int) -> tuple[StatePart, ...]:
    size = keeping.dtype_bytes
    tail, values = state.conv_channels * state.conv_tail, state.shifted_values
    return (
        StatePart("convolution", tail, size, f"{state.conv_channels} x {state.conv_tail} x {size}"),
        StatePart("shifted values", values, size, f"{values} x {size}"),
    )


_PARTS: dict[type, Callable[[Any, Keeping, int], tuple[StatePart, ...]]] = {
    MambaState: _mamba,
    Mamba2State: _mamba2,
    GatedDeltaNetState: _gated_delta_net,
    KimiDeltaState: _kimi_delta,
    LinearAttentionState: _linear,
    RwkvState: _rwkv,
    WkvState: _rwkv4,
    MatrixMemoryState: _mlstm,
    RecurrentState: _rglru,
    ShortConvState: _short_conv,
    ConvolvedAttentionState: _convolved_attention,
}
