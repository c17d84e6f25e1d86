"""Weight tensors of state-space, linear-attention and convolution layers, on one rank.

Sources: the reference modules of each family (Mamba, Mamba-2, gated delta net, Kimi delta attention,
lightning attention, RWKV, Griffin, LFM). Heads and channels are cut over the tensor-parallel ranks; the B
and C groups of Mamba-2 are replicated once there are more ranks than groups.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.sizing.tensor import Tensor, matrix, share, vector
from kvplan.specs import state as kinds
from kvplan.specs.schema import State


def state_tensors(state: State, hidden: int, tp: int = 1) -> Iterator[Tensor]:
    """Weight tensors of one constant-state layer."""
    match state:
        case kinds.MambaState():
            yield from _mamba(state, hidden, tp)
        case kinds.Mamba2State():
            yield from _mamba2(state, hidden, tp)
        case kinds.GatedDeltaNetState():
            yield from _gated_delta_net(state, hidden, tp)
        case kinds.KimiDeltaState():
            yield from _kimi_delta(state, hidden, tp)
        case kinds.LinearAttentionState():
            yield from _lightning(state, hidden, tp)
        case kinds.MatrixMemoryState():
            yield from _mlstm(state, hidden, tp)
        case kinds.RwkvState() | kinds.WkvState():
            yield from _rwkv(state, hidden, tp)
        case kinds.RecurrentState():
            yield from _rglru(state, hidden, tp)
        case kinds.ShortConvState():
            channels = share(state.channels, tp)
            yield vector("conv", "state", channels * state.conv_kernel)
            if state.paged_heads is None:  # else the inputs are projected for attention already (Inkling)
                yield matrix("in_proj", "state", 3 * channels, hidden)
                yield matrix("out_proj", "state", hidden, channels)
        case kinds.ConvolvedAttentionState():
            channels = share(state.conv_channels, tp)
            yield vector("conv", "state", channels * (state.conv_tail + 1))


def _mamba(state: kinds.MambaState, hidden: int, tp: int) -> Iterator[Tensor]:
    inner = share(state.inner_size, tp)
    yield matrix("in_proj", "state", 2 * inner, hidden)
    yield vector("conv", "state", inner * (state.conv_kernel + 1))
    yield matrix("x_proj", "state", state.dt_rank + 2 * state.state_size, inner)
    yield matrix("dt_proj", "state", inner, state.dt_rank)
    yield vector("dt_bias", "state", inner)
    yield vector("a_log_d", "state", inner * (state.state_size + 1))
    yield matrix("out_proj", "state", hidden, inner)


def _mamba2(state: kinds.Mamba2State, hidden: int, tp: int) -> Iterator[Tensor]:
    if state.dt_rank is not None:
        yield from _late_mamba2(state, state.dt_rank, hidden, tp)
        return
    heads, groups = share(state.heads, tp), share(state.groups, tp)
    inner = heads * state.head_dim
    channels = inner + 2 * groups * state.state_size
    yield matrix("in_proj", "state", inner + channels + heads, hidden)
    yield vector("conv", "state", channels * (state.conv_kernel + 1))
    yield vector("a_d_dt_norm", "state", 3 * heads + inner)
    yield matrix("out_proj", "state", hidden, inner)


def _late_mamba2(state: kinds.Mamba2State, rank: int, hidden: int, tp: int) -> Iterator[Tensor]:
    """B, C and time steps projected from the convolved x (PLaMo 2)."""
    heads = share(state.heads, tp)
    inner = heads * state.head_dim
    yield matrix("in_proj", "state", 2 * inner, hidden)
    yield vector("conv", "state", inner * state.conv_kernel)
    yield matrix("bcdt_proj", "state", rank + 2 * state.state_size, inner)
    yield matrix("dt_proj", "state", heads, rank)
    yield vector("a_d_dt_norm", "state", 3 * heads + rank + 2 * state.state_size)
    yield matrix("out_proj", "state", hidden, inner)


def _gated_delta_net(state: kinds.GatedDeltaNetState, hidden: int, tp: int) -> Iterator[Tensor]:
    key = share(state.key_heads, tp) * state.key_head_dim
    value_heads = share(state.value_heads, tp)
    value = value_heads * state.value_head_dim
    yield matrix("in_proj_qkvz", "state", 2 * key + 2 * value, hidden)
    yield matrix("in_proj_ba", "state", 2 * value_heads, hidden)
    yield vector("conv", "state", (2 * key + value) * state.conv_kernel)
    yield vector("a_dt_norm", "state", 2 * value_heads + state.value_head_dim)
    yield matrix("out_proj", "state", hidden, value)


def _kimi_delta(state: kinds.KimiDeltaState, hidden: int, tp: int) -> Iterator[Tensor]:
    heads, dim = share(state.heads, tp), state.head_dim
    yield matrix("qkv_proj", "state", 3 * heads * dim, hidden)
    yield vector("conv", "state", 3 * heads * dim * state.conv_kernel)
    if narrow := 2 - state.full_rank_gates:
        yield matrix("fg_a_proj", "state", narrow * dim, hidden)
        yield matrix("fg_b_proj", "state", narrow * heads * dim, dim)
    if state.full_rank_gates:
        yield matrix("fg_proj", "state", state.full_rank_gates * heads * dim, hidden)
    yield matrix("b_proj", "state", heads, hidden)
    yield vector("a_dt_norm", "state", heads + heads * dim + dim)
    yield matrix("o_proj", "state", hidden, heads * dim)


def _lightning(state: kinds.LinearAttentionState, hidden: int, tp: int) -> Iterator[Tensor]:
    heads = share(state.heads, tp)
    key, value = heads * state.key_head_dim, heads * state.value_head_dim
    yield matrix("qkv_proj", "state", 2 * key + value, hidden)
    yield matrix("output_gate", "state", value, hidden)
    yield vector("norm", "state", value)
    yield matrix("o_proj", "state", hidden, value)


def _mlstm(state: kinds.MatrixMemoryState, hidden: int, tp: int) -> Iterator[Tensor]:
    heads = share(state.heads, tp)
    key, value = heads * state.key_head_dim, heads * state.value_head_dim
    yield matrix("qkv_proj", "state", 2 * key + value, hidden)
    yield matrix("output_gate", "state", value, hidden)
    yield matrix("if_gates", "state", 2 * heads, hidden)
    yield vector("gate_bias_norm", "state", 2 * heads + value)
    yield matrix("out_proj", "state", hidden, value)


def _rwkv(state: kinds.RwkvState | kinds.WkvState, hidden: int, tp: int) -> Iterator[Tensor]:
    # Receptance, key, value, gate and output; RWKV-4 has no gate, RWKV-7's is one of its thin pairs.
    if isinstance(state, kinds.RwkvState):
        inner, low_rank, receptance = state.heads * state.head_dim, state.low_rank, state.channel_gate
        gated = receptance or not low_rank
    else:
        inner, low_rank, receptance, gated = state.inner_size, 0, True, False
    inner = share(inner, tp)
    yield matrix("rkvg_proj", "state", (4 if gated else 3) * inner, hidden)
    yield matrix("output", "state", hidden, inner)
    if low_rank:
        yield matrix("mixers", "state", low_rank, hidden + inner)
    if receptance:
        yield matrix("channel_receptance", "state", share(hidden, tp), hidden)
    yield vector("mix", "state", 6 * hidden)


def _rglru(state: kinds.RecurrentState, hidden: int, tp: int) -> Iterator[Tensor]:
    inner = share(state.inner_size, tp)
    yield matrix("linear_xy", "state", 2 * inner, hidden)
    yield vector("conv", "state", inner * (state.conv_kernel + 1))
    yield matrix("gates", "state", 2 * inner, state.inner_size // state.heads)
    yield vector("gate_bias_recurrent", "state", 3 * inner)
    yield matrix("linear_out", "state", hidden, inner)
