"""Which heads vLLM's attention kernels read on a GPU, and how many tokens a block has for them.

A layer's kernel is the first that knows GPU, width of heads, number format, sinks and images whose tokens
attend to one another (``_get_backend_priorities`` and what backends say of themselves, 0.18 to 0.33). Some
combinations none knows, which vLLM refuses, or before 0.27 fails to compile. FlashInfer is taken to be there
with all its kernels, as in the official images. Blocks have sixteen tokens, but for kernels of larger tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kvplan.sizing.serving import BLACKWELL, HOPPER, Serving
from kvplan.sizing.sglang.names import named
from kvplan.specs.schema import (
    Block,
    ChunkedAttention,
    FullAttention,
    ModelSpec,
    SharedAttention,
    SlidingAttention,
)

Capability = tuple[int, int]
Version = tuple[int, int, int]

FLASH_ATTENTION_4 = (HOPPER, BLACKWELL, 11)
"""Major compute capabilities that it is built for."""
AMPERE = (8, 0)
"""FlashAttention and FlashInfer run from here on."""
TRITON_FP8 = (8, 9)
"""Triton's kernels read fp8 from here on; those of latents, too."""

BY_PARTS = (0, 30, 0)
"""Where images attend to themselves data-center Blackwell reads wide heads with two kernels, which share
blocks of 64 tokens."""
WIDE_FP8 = (0, 31, 0)
"""Hopper reads heads of 512 dimensions in fp8 from here on, in tiles of 64 tokens."""
NVFP4_WIDELY = (0, 32, 0)
"""NVFP4 is read on Ampere, Hopper and consumer Blackwell, too."""
INT4_ROWS = (0, 25, 0)
"""Triton's kernel reads int4 with a scale per row."""

ONE_KERNEL = ("gemma4", "diffusiongemma")
"""Whose layers of different widths are read by Triton's kernel where FlashAttention 4 is not built."""

TILE_TOKENS, WIDE_DIMS = 64, 512
FLASHINFER_DIMS = (64, 128, 256, 512)
"""Widths of heads that its kernels are built for."""
PARTED_DIMS = (256, 512)
"""And where Triton's kernel has the images."""


@dataclass(frozen=True, slots=True)
class Heads:
    """What a kernel is to read: heads of ``dim`` dimensions in the number format ``form``.

    ``dtype`` of queries. ``prefixes``: tokens of an image attend to one another. ``crossed``: keys and values
    are an encoder's. ``mixed``: one kernel reads layers of several widths (Gemma 4).
    """

    dim: int
    form: str
    dtype: str = "bf16"
    sinks: bool = False
    prefixes: bool = False
    crossed: bool = False
    mixed: bool = False

    @property
    def words(self) -> str:
        """What there is no kernel for."""
        beside = ", attention sinks" if self.sinks else ", images that attend to themselves" * self.prefixes
        return f"{self.form} KV with {'cross-attention' if self.crossed else 'heads'} of {self.dim}{beside}"


def kept_heads(model: ModelSpec, drafters: Sequence[Block], form: str, dtype: str) -> tuple[Heads, ...]:
    """What kernels read of the model and of layers that draft, each kind once; latents apart."""
    prefixes = model.image_prefixes
    own = dict.fromkeys(_all_heads(model.layers(), form, dtype, prefixes))
    if len({heads.dim for heads in own}) > 1 and named(model, *ONE_KERNEL):
        own = dict.fromkeys(replace(heads, mixed=True) for heads in own)
    return tuple(own | dict.fromkeys(_all_heads(drafters, form, dtype, prefixes)))


def _all_heads(blocks: Sequence[Block], form: str, dtype: str, prefixes: bool) -> Iterator[Heads]:
    for block in blocks:
        attention = block.attention
        if isinstance(attention, SharedAttention):
            yield Heads(attention.head_dim, form, dtype, prefixes=prefixes)
        elif isinstance(attention, FullAttention | SlidingAttention | ChunkedAttention):
            yield Heads(attention.head_dim, form, dtype, attention.sinks, prefixes)
        if block.cross is not None:
            yield Heads(block.cross.head_dim, form, dtype, prefixes=prefixes, crossed=True)


def are_read(heads: Heads, capability: Capability, version: Version) -> bool:
    """Whether any kernel reads them."""
    kernels = (_flash_attention_reads, _flashinfer_reads, _triton_reads)
    return any(reads(heads, capability, version) for reads in kernels)


def head_block(kept: Sequence[Heads], serving: Serving) -> int:
    """Tokens of a block, for all kinds of heads; one that was asked for is kept."""
    if serving.kind != "vllm" or "block_size" in serving.given:
        return serving.block_size
    return max([serving.block_size, *(_tile(heads, serving) for heads in kept)])


def _tile(heads: Heads, serving: Serving) -> int:
    """Tokens of a kernel's tile where it is larger than a block; 1 elsewhere."""
    capability, version = (serving.capability, 0), serving.version
    parted = serving.capability == BLACKWELL and version >= BY_PARTS and heads.dim in PARTED_DIMS
    if heads.prefixes and parted and heads.dtype != "fp32" and heads.form in _BOTH_READ:
        return TILE_TOKENS
    wide = serving.capability == HOPPER and version >= WIDE_FP8 and heads.dim == WIDE_DIMS
    if wide and heads.form == "fp8_e4m3" and _flash_attention_reads(heads, capability, version):
        return TILE_TOKENS
    return 1


_BOTH_READ = ("bf16", "fp16", "fp8_e4m3", "fp8_e5m2")
"""Number formats that FlashInfer's and Triton's kernels read."""


def _flash_attention_reads(heads: Heads, capability: Capability, version: Version) -> bool:
    major = capability[0]
    widest = WIDE_DIMS if major in FLASH_ATTENTION_4 else 256
    if capability < AMPERE or heads.dtype == "fp32" or heads.dim % 8 or heads.dim > widest:
        return False
    if heads.mixed and major not in FLASH_ATTENTION_4:
        return False
    if heads.sinks and major not in (HOPPER, BLACKWELL):
        return False
    if heads.form == "fp8_e4m3":
        narrow = 256 if version < WIDE_FP8 else WIDE_DIMS
        return heads.dim <= (narrow if major == HOPPER else 128 if major == BLACKWELL else 0)
    return heads.form in ("bf16", "fp16")


def _flashinfer_reads(heads: Heads, capability: Capability, version: Version) -> bool:
    major = capability[0]
    if capability < AMPERE or heads.dtype == "fp32" or heads.dim not in FLASHINFER_DIMS:
        return False
    if heads.mixed and major not in FLASH_ATTENTION_4:
        return False
    if heads.prefixes or heads.crossed or (heads.sinks and major not in (HOPPER, BLACKWELL, 12)):
        return False
    if heads.form == "nvfp4":
        elsewhere = version >= NVFP4_WIDELY and major in (8, HOPPER, 12)
        return major == BLACKWELL or (elsewhere and heads.dim != 64 and not heads.sinks)
    return heads.form in _BOTH_READ


def _triton_reads(heads: Heads, capability: Capability, version: Version) -> bool:
    if heads.form.startswith("fp8"):
        return capability >= TRITON_FP8
    if heads.form == "bf16" and capability < AMPERE:
        return False
    return heads.form != "nvfp4" and (heads.form != "int4_per_token_head" or version >= INT4_ROWS)
