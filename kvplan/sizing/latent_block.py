"""How many tokens a block of vLLM has where attention keeps latents (MLA): as its kernels ask for.

Read from the sources of 0.7 to 0.33 (``platforms/cuda.py``, ``v1/attention/backends/mla``). From 0.18 on the
first kernel that supports GPU, number format and shape decides; before, the platform forced a size. A size
that the user gives is kept from 0.18 on.
"""

from __future__ import annotations

from kvplan.sizing.head_kernels import AMPERE, TRITON_FP8, Capability, Version
from kvplan.sizing.serving import BLACKWELL, HOPPER, Serving
from kvplan.sizing.sparse_latents import CONSUMER_BLACKWELL
from kvplan.specs.schema import LatentAttention

FLASHMLA = (0, 8, 0)
"""Runs on Hopper unless told otherwise; before, Triton's kernel did, which takes blocks of any 16 tokens."""
CUTLASS = (0, 10, 1)
"""Runs on data-center Blackwell."""
SPARSE = (0, 11, 0)
"""Indexers, whose kernels read pages of 64 keys."""
FLASHINFER = (0, 15, 0)
"""Runs on data-center Blackwell where it knows the shape."""
BY_KERNEL = (0, 18, 0)
"""Kernels say what they support; FlashAttention comes before FlashMLA on Hopper."""
MORE_SHAPES = (0, 19, 0)
"""FlashInfer takes keys of 192 dimensions without rotation, too."""

INDEXED_TOKENS = 64
"""Keys of a page that the kernels of indexers read, and of the latents they choose (``indexer.py``)."""

LATENT_DIMS = (320, 576)
"""Elements of a latent that vLLM's dense kernels are built for; Triton's reads others."""
UNREAD = ("fp8_e5m2", "nvfp4")
"""Formats that no kernel of latents reads."""
UNROTATED = (0, 30, 0)
"""512, a latent without rotation, too."""


def latent_block(attention: LatentAttention, serving: Serving, *, narrow: bool) -> int:
    """Tokens of a block.

    Args:
        narrow: the cache is kept in fewer than 16 bits, which FlashAttention's kernel does not read.
    """
    version, given = serving.version, serving.block_size
    if "block_size" in serving.given and version >= BY_KERNEL:
        return given
    if attention.indexer is not None and version >= SPARSE:
        return _multiple(given, INDEXED_TOKENS)
    if version >= BY_KERNEL and attention.latent_dim not in dense_dims(version):
        return given
    if serving.capability == HOPPER and version >= FLASHMLA:
        flash_attention = version >= BY_KERNEL and not narrow
        return given if flash_attention else _multiple(given, 64)
    if serving.capability == BLACKWELL and version >= CUTLASS:
        return _blackwell(attention, version, given)
    return given


def dense_dims(version: Version) -> tuple[int, ...]:
    """Elements of a latent that kernels other than Triton's read."""
    return (*LATENT_DIMS, 512) if version >= UNROTATED else LATENT_DIMS


def unread_latents(
    attention: LatentAttention, form: str, capability: Capability, version: Version
) -> str | None:
    """What vLLM has no kernels for where they say what they read (``BY_KERNEL``), in words.

    Latents are read in 16 bits and in fp8 with four bits of exponent: by Triton's kernels, but those an
    indexer chooses from by kernels of Hopper and Blackwell only.
    """
    if attention.indexer is not None:
        consumer = capability[0] == 12 and version >= CONSUMER_BLACKWELL
        if capability[0] not in (HOPPER, BLACKWELL) and not consumer:
            return "latents that an indexer chooses from"
    elif form.endswith("_ds_mla") or (form == "fp8_e4m3" and capability < TRITON_FP8):
        return f"{form} KV with latents"
    if form == "bf16" and capability < AMPERE:
        return f"{form} KV with latents"
    return f"{form} KV with latents" if form in UNREAD or form.endswith("_per_token_head") else None


def _blackwell(attention: LatentAttention, version: tuple[int, int, int], given: int) -> int:
    if version >= BY_KERNEL:
        shapes = (64, 128, 192) if version >= MORE_SHAPES else (64, 128)
        return 32 if attention.nope_head_dim in shapes else _multiple(given, 128)
    if version >= FLASHINFER and attention.nope_head_dim == 128:
        return given if given == 32 else _multiple(given, 64)
    return _multiple(given, 128)


def _multiple(given: int, wanted: int) -> int:
    return given if given % wanted == 0 else wanted
