"""KV cache formats as the kernels store them: code width, scale granularity, zero points, residual window.

This is the storage contract of the bundled kernels. It holds no tensor and imports nothing heavy, so that
``kvplan doctor`` can list formats on a machine without torch.

Symbols used throughout the package: D = head dimension, H = KV heads, BS = block size (tokens per page),
g = quantization group, N = number of pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from kvplan.errors import UnknownName, UsageError
from kvplan.registry import Registry


class Code(IntEnum):
    """How one element is coded. The values are compile-time constants of the kernels."""

    FLOAT16 = 0
    """bf16 or fp16 as they are."""
    E4M3 = 1
    E5M2 = 2
    INT8 = 3
    """Symmetric, -127..127."""
    INT4 = 4
    """Asymmetric, 0..15; byte ``d`` holds element ``d`` (low nibble) and ``d + D/2`` (high nibble)."""
    INT2 = 5
    """Asymmetric, 0..3; byte ``d`` holds elements ``d + j*D/4`` in bits ``2j..2j+1``."""
    E2M1 = 6
    """FP4: 0 .5 1 1.5 2 3 4 6 with a sign; packed as INT4 is."""


class Scaling(IntEnum):
    """What shares one scale. The values are compile-time constants of the kernels."""

    NONE = 0
    TENSOR = 1
    """One fp32 number, set before writing."""
    HEAD = 2
    """One fp32 number per KV head, set before writing."""
    TOKEN_HEAD = 3
    """One per token and head, computed when the token is written."""
    GROUP = 4
    """One per token, head and g neighbouring elements, computed when the token is written."""
    CHANNEL = 5
    """One per head, element and g neighbouring tokens (KIVI keys), computed when the group is complete."""


BITS = {Code.FLOAT16: 16, Code.E4M3: 8, Code.E5M2: 8, Code.INT8: 8, Code.INT4: 4, Code.INT2: 2, Code.E2M1: 4}
LEVELS = {Code.INT8: 127, Code.INT4: 15, Code.INT2: 3}
"""Largest code of the integer formats."""


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """How the keys, or the values, of a cache are stored.

    Attributes:
        code: element coding.
        scaling: what shares a scale.
        group: elements (GROUP) or tokens (CHANNEL) per scale; 0 where the scaling has no group.
        scale_dtype: name of the torch dtype of the stored scales; ``e4m3`` and ``e8m0`` scales are stored
            as ``uint8``.
    """

    code: Code
    scaling: Scaling = Scaling.NONE
    group: int = 0
    scale_dtype: str = "float16"

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return BITS[self.code]

    @property
    def pack(self) -> int:
        """Elements per stored byte; 1 for 8 bits and wider."""
        return max(1, 8 // self.bits)

    @property
    def asymmetric(self) -> bool:
        """Whether a minimum is stored beside each scale."""
        return self.code in (Code.INT4, Code.INT2)

    @property
    def dynamic(self) -> bool:
        """Whether the writer computes the scales (otherwise they are set beforehand)."""
        return self.scaling >= Scaling.TOKEN_HEAD

    def scales_per_token(self, head_dim: int) -> int:
        """Scales of one token and head; 0 where scales are not per token."""
        if self.scaling is Scaling.TOKEN_HEAD:
            return 1
        return head_dim // self.group if self.scaling is Scaling.GROUP else 0

    def bytes_per_element(self, head_dim: int) -> float:
        """Bytes of one cached element including its share of scales and minima."""
        width = 1 if self.scale_dtype == "uint8" else 2
        numbers = 2 if self.asymmetric else 1
        shared = {Scaling.TOKEN_HEAD: head_dim, Scaling.GROUP: self.group, Scaling.CHANNEL: self.group}
        extra = width * numbers / shared[self.scaling] if self.scaling in shared else 0.0
        return self.bits / 8 + extra

    def why_not_head_dim(self, head_dim: int) -> str | None:
        """Why keys or values of this head dimension cannot be stored so, or ``None`` when they can."""
        if head_dim % 16 or not 32 <= head_dim <= 256:
            return f"head_dim must be a multiple of 16 from 32 to 256, not {head_dim}"
        width = head_dim // self.pack
        if head_dim % self.pack or (self.pack > 1 and width % 8):
            return f"head_dim must be a multiple of {8 * self.pack} for {self.bits}-bit codes, not {head_dim}"
        if width < 16:
            # The matrix units multiply sixteen elements at a time.
            return f"head_dim must be at least {16 * self.pack} for {self.bits}-bit codes, not {head_dim}"
        if self.scaling is Scaling.GROUP:
            if head_dim % self.group:
                return f"head_dim must be a multiple of the group of {self.group}, not {head_dim}"
            if width % self.group and self.group % width:
                return f"a group of {self.group} would straddle the packed slices of {width} elements"
            if width & (width - 1):
                return f"grouped scales need a head_dim of 32, 64, 128 or 256, not {head_dim}"
        return None


@dataclass(frozen=True, slots=True)
class KVFormat:
    """A named cache format.

    Attributes:
        name: as users write it.
        key, value: how each side is stored.
        residual: tokens of a sequence kept in 16 bits before groups of them are coded (KIVI); 0 otherwise.
        latent: whether it stores the MLA latent and RoPE key instead of keys and values per head.
        summary: one line for people.
    """

    name: str
    key: TensorFormat
    value: TensorFormat
    summary: str
    residual: int = 0
    latent: bool = False

    @property
    def token_group(self) -> int:
        """Tokens that are coded together; 1 where each token is coded alone."""
        return self.key.group if self.key.scaling is Scaling.CHANNEL else 1

    def bytes_per_token(self, kv_heads: int, head_dim: int) -> float:
        """Bytes of one token of one layer, scales included, without the residual ring."""
        if self.latent:
            return LATENT_DIM * self.key.bits / 8 + (16 if self.key.dynamic else 0) + 2 * ROPE_DIM
        per_head = self.key.bytes_per_element(head_dim) + self.value.bytes_per_element(head_dim)
        return kv_heads * head_dim * per_head

    def require(self, head_dim: int, block_size: int) -> None:
        """Check that a cache of this shape can exist.

        Raises:
            UsageError: naming the shape and what would be accepted.
        """
        if block_size % 16 or not 16 <= block_size <= 256:
            raise UsageError(f"block_size must be a multiple of 16 from 16 to 256, not {block_size}")
        if block_size % self.token_group:
            raise UsageError(
                f"{self.name} codes keys in groups of {self.token_group} tokens, so block_size must be a "
                f"multiple of {self.token_group}, not {block_size}"
            )
        if self.latent:
            return
        for side in (self.key, self.value):
            reason = side.why_not_head_dim(head_dim)
            if reason:
                raise UsageError(f"{self.name}: {reason}")


LATENT_DIM = 512
"""MLA: compressed latent per token (DeepSeek-V2/V3)."""
ROPE_DIM = 64
"""MLA: decoupled RoPE key per token."""
LATENT_TILE = 128
"""MLA fp8: latent elements that share one fp32 scale."""

FORMATS: Registry[KVFormat] = Registry("KV cache format of the kernels")


def _add(
    name: str, key: TensorFormat, value: TensorFormat, summary: str, *aliases: str, **more: object
) -> None:
    FORMATS.register(name, *aliases)(KVFormat(name, key, value, summary, **more))  # type: ignore[arg-type]


def _both(name: str, side: TensorFormat, summary: str, *aliases: str) -> None:
    _add(name, side, side, summary, *aliases)


_both("bf16", TensorFormat(Code.FLOAT16), "bfloat16 as computed")
_both("fp16", TensorFormat(Code.FLOAT16), "float16 as computed")
_both("fp8_e4m3", TensorFormat(Code.E4M3, Scaling.TENSOR, 0, "float32"), "one scale per tensor", "fp8")
_both("fp8_e5m2", TensorFormat(Code.E5M2, Scaling.TENSOR, 0, "float32"), "one scale per tensor")
_both("int8", TensorFormat(Code.INT8, Scaling.TENSOR, 0, "float32"), "one scale per tensor")
_both("int8_per_head", TensorFormat(Code.INT8, Scaling.HEAD, 0, "float32"), "one scale per KV head")
_both("int8_per_token_head", TensorFormat(Code.INT8, Scaling.TOKEN_HEAD), "fp16 scale per token and head")
_both(
    "int4", TensorFormat(Code.INT4, Scaling.TOKEN_HEAD), "fp16 scale and minimum per token and head",
    "int4_per_token_head",
)  # fmt: skip
_both("int4_g64", TensorFormat(Code.INT4, Scaling.GROUP, 64), "fp16 scale and minimum per 64 elements")
_both("int4_g32", TensorFormat(Code.INT4, Scaling.GROUP, 32), "fp16 scale and minimum per 32 elements")
for _bits, _code in ((4, Code.INT4), (2, Code.INT2)):
    _add(
        f"kivi{_bits}",
        TensorFormat(_code, Scaling.CHANNEL, 32),
        TensorFormat(_code, Scaling.GROUP, 32),
        "keys per channel over 32 tokens, values per token over 32 elements, newest tokens in 16 bits",
        residual=128,
    )
_both("nvfp4", TensorFormat(Code.E2M1, Scaling.GROUP, 16, "uint8"), "e4m3 scale per 16, fp32 per tensor")
_both("mxfp4", TensorFormat(Code.E2M1, Scaling.GROUP, 32, "uint8"), "power-of-two scale per 32")
_add("mla_bf16", TensorFormat(Code.FLOAT16), TensorFormat(Code.FLOAT16), "MLA latent in bf16", latent=True)
_add(
    "mla_fp8",
    TensorFormat(Code.E4M3, Scaling.GROUP, LATENT_TILE, "float32"),
    TensorFormat(Code.E4M3, Scaling.GROUP, LATENT_TILE, "float32"),
    "MLA latent in e4m3 with an fp32 scale per 128, RoPE key in bf16: 656 bytes a token",
    "fp8_ds_mla",
    latent=True,
)


def get_format(name: str | KVFormat) -> KVFormat:
    """The format called ``name``; a ``KVFormat`` passes through.

    Raises:
        UnknownName: no format has that name; near names are suggested.
    """
    return name if isinstance(name, KVFormat) else FORMATS.get(name)


def all_formats() -> list[KVFormat]:
    """Every format once, in order of definition."""
    return list(dict.fromkeys(FORMATS.items()))


__all__ = [
    "BITS", "FORMATS", "LATENT_DIM", "LATENT_TILE", "LEVELS", "ROPE_DIM", "Code", "KVFormat", "Scaling",
    "TensorFormat", "UnknownName", "all_formats", "get_format",
]  # fmt: skip
