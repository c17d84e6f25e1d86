"""Constant-size state: what state-space, linear-attention and convolution layers keep per sequence."""

from typing import Annotated, Literal

from pydantic import Field

from kvplan.specs.base import Count, Frozen, Natural

StateDtype = Literal["fp32", "bf16", "fp16"]


class _State(Frozen):
    recurrent_dtype: StateDtype | None = None
    """Dtype the *configuration* asks for the recurrent state; ``None``: it is silent, engines differ."""


class MambaState(_State):
    """Mamba-1: ``inner_size`` channels of ``state_size`` numbers, convolution of ``conv_kernel``."""

    kind: Literal["mamba"] = "mamba"
    inner_size: Count
    state_size: Count
    conv_kernel: Count
    dt_rank: Count
    heads: Count = 1


class Mamba2State(_State):
    """Mamba-2: heads x head_dim x state_size; convolution over x and each group's B and C.

    Without groups (PLaMo 2) x alone is convolved; B, C and the time steps are projected from it afterwards,
    the steps through ``dt_rank``.
    """

    kind: Literal["mamba2"] = "mamba2"
    heads: Count
    head_dim: Count
    groups: Natural
    state_size: Count
    conv_kernel: Count
    dt_rank: Count | None = None
    chunk_size: Count | None = None
    """Tokens after which the kernels of prefill have a state; ``None``: the configuration is silent."""

    @property
    def inner_size(self) -> int:
        """Channels: heads x head dimension."""
        return self.heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.inner_size + 2 * self.groups * self.state_size


class GatedDeltaNetState(_State):
    """Gated delta net: per value head a key_head_dim x value_head_dim matrix; convolution over q, k and v."""

    kind: Literal["gated_delta_net"] = "gated_delta_net"
    key_heads: Count
    value_heads: Count
    key_head_dim: Count
    value_head_dim: Count
    conv_kernel: Count
    negative_eigenvalues: bool = False
    """Whether the rule may turn a state's direction round (OLMo Hybrid): vLLM's fused prefill may not."""

    @property
    def conv_channels(self) -> int:
        """Channels of the convolution: q, k and v."""
        return 2 * self.key_heads * self.key_head_dim + self.value_heads * self.value_head_dim


class KimiDeltaState(_State):
    """Kimi delta attention: per head a head_dim x head_dim matrix; convolutions for q, k and v."""

    kind: Literal["kimi_delta"] = "kimi_delta"
    heads: Count
    head_dim: Count
    conv_kernel: Count
    bounded_gate: bool = False
    """Whether the gate has a lower bound, which vLLM's faster prefill kernel needs."""
    full_rank_gates: Natural = 0
    """Of the two gates, how many (1: that of the output) are projected without a bottleneck."""

    @property
    def conv_channels(self) -> int:
        """Channels of the three convolutions together."""
        return 3 * self.heads * self.head_dim


class LinearAttentionState(_State):
    """Linear (lightning) attention: per head one key_dim x value_dim matrix, nothing else."""

    kind: Literal["linear"] = "linear"
    heads: Count
    key_head_dim: Count
    value_head_dim: Count


class RwkvState(_State):
    """RWKV: per head a head_dim x head_dim matrix plus ``shifts`` token-shift vectors.

    ``low_rank``: the ranks of the mixers that are products of two thin matrices, together (RWKV-7).
    ``channel_gate``: the feed-forward part has a receptance of hidden x hidden (RWKV-5 and 6).
    """

    kind: Literal["rwkv"] = "rwkv"
    heads: Count
    head_dim: Count
    hidden_size: Count
    shifts: Natural = 2
    low_rank: Natural = 0
    channel_gate: bool = False


class WkvState(_State):
    """RWKV-4: two token shifts of hidden_size; numerator, denominator and maximum of inner_size."""

    kind: Literal["rwkv4"] = "rwkv4"
    hidden_size: Count
    inner_size: Count


class MatrixMemoryState(_State):
    """mLSTM (xLSTM): per head a key_dim x value_dim matrix, its normaliser of key_dim and one maximum."""

    kind: Literal["mlstm"] = "mlstm"
    heads: Count
    key_head_dim: Count
    value_head_dim: Count


class RecurrentState(_State):
    """RG-LRU (Griffin): one vector of ``inner_size`` and its short convolution."""

    kind: Literal["rglru"] = "rglru"
    inner_size: Count
    conv_kernel: Count
    heads: Count = 1


class ShortConvState(_State):
    """A gated short convolution (LFM): the last ``conv_kernel`` inputs of ``channels`` channels.

    ``paged_heads``: vLLM keeps the inputs in pages of ``conv_kernel`` tokens like a window's, dealt to so
    many heads whose rows are as wide as the next power of two (Inkling).
    """

    kind: Literal["short_conv"] = "short_conv"
    channels: Count
    conv_kernel: Count
    paged_heads: Count | None = None


class ConvolvedAttentionState(_State):
    """Convolved compressed attention (Zaya): tail of the q/k convolutions, one shifted value."""

    kind: Literal["convolved_attention"] = "convolved_attention"
    conv_channels: Count
    conv_tail: Count
    shifted_values: Natural


State = Annotated[
    MambaState
    | Mamba2State
    | GatedDeltaNetState
    | KimiDeltaState
    | LinearAttentionState
    | RwkvState
    | WkvState
    | MatrixMemoryState
    | RecurrentState
    | ShortConvState
    | ConvolvedAttentionState,
    Field(discriminator="kind"),
]
