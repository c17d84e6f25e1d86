"""The kernels as torch custom operators ``torch.ops.kvplan.*``, with fake implementations for tracing.

Registered so that they work under ``torch.compile`` (one opaque node; shapes are known without running) and
in CUDA graphs (no operator reads a device value on the host). Call them through ``attention``, which
validates.

``cache`` is ``PagedKVCache.tensors()`` or ``MLACache.tensors()`` without the counters, which are an argument
of their own because reading a cache in fused mode counts in them (and leaves them at zero).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvplan.errors import EnvironmentLacks, UsageError
from kvplan.kernels import checks, mla_cache, reference
from kvplan.kernels.batch import PagedBatch
from kvplan.kernels.cache import PagedKVCache
from kvplan.kernels.formats import LATENT_DIM
from kvplan.kernels.mla_cache import MLACache

BACKENDS = ("auto", "triton", "reference")

on_device_of = torch.cuda.device_of
"""Triton launches on the current device and its stream, which must be those of the tensors."""


def uses_triton(backend: str, device: torch.device) -> bool:
    """Whether a call runs the Triton kernels.

    Raises:
        UsageError: no such backend. EnvironmentLacks: Triton was asked for and cannot be imported.
    """
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}", hint=f"one of {', '.join(BACKENDS)}")
    if backend == "reference" or (backend == "auto" and device.type != "cuda"):
        return False
    try:
        import triton  # noqa: F401
    except ImportError as exc:
        raise EnvironmentLacks("triton cannot be imported", hint="pip install 'kvplan[gpu]'") from exc
    return True


@torch.library.custom_op("kvplan::paged_attention", mutates_args=("counters",))
def paged_attention(
    query: Tensor,
    cache: list[Tensor],
    counters: Tensor,
    format: str,
    block_table: Tensor,
    lengths: Tensor,
    query_starts: Tensor | None,
    rows: Tensor | None,
    max_query: int,
    scale: float,
    window: int,
    splits: int,
    fused: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """(out like query, lse fp32 [T, HQ]) of new tokens; decode when ``query_starts`` is None."""
    held = PagedKVCache.from_tensors(format, query.shape[-1], [*cache, counters])
    batch = PagedBatch(block_table, lengths, query_starts, max_query, rows)
    triton = uses_triton(backend, query.device)
    if not triton or checks.debugging():
        batch.validate_contents(held.num_blocks, held.block_size)
    if not triton:
        out, lse = reference.attention(query, held, batch, scale=scale, window=window)
        return out.to(query.dtype), lse
    from kvplan.kernels import launch

    with on_device_of(query):
        return launch.attend(query, held, batch, scale=scale, window=window, splits=splits, fused=fused)


@paged_attention.register_fake
def _(query: Tensor, *arguments: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)


@torch.library.custom_op("kvplan::cache_write", mutates_args=("cache",))
def cache_write(
    cache: list[Tensor], format: str, key: Tensor, value: Tensor, slots: Tensor, backend: str
) -> None:
    """Quantize tokens [T, H, D] into slots (int64 [T], negative to skip)."""
    held = PagedKVCache.from_tensors(format, key.shape[-1], [*cache, key.new_empty(0)])
    triton = uses_triton(backend, key.device)
    if not triton or checks.debugging():
        checks.slots(slots, held.num_blocks * held.block_size)
    if not triton:
        reference.write(held, key, value, slots)
        return
    from kvplan.kernels import launch

    with on_device_of(key):
        launch.write(held, key, value, slots)


@cache_write.register_fake
def _(cache: list[Tensor], *arguments: object) -> None:
    return None


@torch.library.custom_op("kvplan::cache_append", mutates_args=("cache",))
def cache_append(
    cache: list[Tensor],
    format: str,
    key: Tensor,
    value: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    query_starts: Tensor | None,
    rows: Tensor | None,
    max_query: int,
    backend: str,
) -> None:
    """Write the new tokens of a batch, through the residual ring where the format has one."""
    held = PagedKVCache.from_tensors(format, key.shape[-1], [*cache, key.new_empty(0)])
    batch = PagedBatch(block_table, lengths, query_starts, max_query, rows)
    triton = uses_triton(backend, key.device)
    if not triton or checks.debugging():
        batch.validate_contents(held.num_blocks, held.block_size)
    if not triton:
        reference.append(held, key, value, batch)
        return
    from kvplan.kernels import launch

    with on_device_of(key):
        if held.format.residual:
            launch.write_append(held, key, value, batch)
        else:
            launch.write(held, key, value, batch.slots(held.block_size, key.shape[0]))


@cache_append.register_fake
def _(cache: list[Tensor], *arguments: object) -> None:
    return None


@torch.library.custom_op("kvplan::mla_attention", mutates_args=("counters",))
def mla_attention(
    query: Tensor,
    cache: list[Tensor],
    counters: Tensor,
    format: str,
    block_table: Tensor,
    lengths: Tensor,
    query_starts: Tensor | None,
    max_query: int,
    scale: float,
    splits: int,
    fused: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """(out [T, HQ, 512], lse fp32 [T, HQ]) of absorbed queries [T, HQ, 576]."""
    held = MLACache.from_tensors(format, [*cache, counters])
    batch = PagedBatch(block_table, lengths, query_starts, max_query)
    triton = uses_triton(backend, query.device)
    if not triton or checks.debugging():
        batch.validate_contents(held.num_blocks, held.block_size)
    if not triton:
        out, lse = mla_cache.attention(query, held, batch, scale=scale)
        return out.to(query.dtype), lse
    from kvplan.kernels import launch_mla

    splits = splits or launch_mla.splits_for(query, held, batch)
    with on_device_of(query):
        return launch_mla.attention(query, held, batch, scale=scale, splits=splits, fused=fused)


@mla_attention.register_fake
def _(query: Tensor, *arguments: object) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(query.shape[:-1], dtype=torch.float32)
    return query.new_empty(*query.shape[:-1], LATENT_DIM), lse


@torch.library.custom_op("kvplan::mla_write", mutates_args=("cache",))
def mla_write(
    cache: list[Tensor], format: str, latent: Tensor, rope: Tensor, slots: Tensor, backend: str
) -> None:
    """Write latents [T, 512] and RoPE keys [T, 64] into slots."""
    held = MLACache.from_tensors(format, [*cache, latent.new_empty(0)])
    triton = uses_triton(backend, latent.device)
    if not triton or checks.debugging():
        checks.slots(slots, held.num_blocks * held.block_size)
    if not triton:
        mla_cache.write(held, latent, rope, slots)
        return
    from kvplan.kernels import launch_mla

    with on_device_of(latent):
        launch_mla.write(held, latent, rope, slots)


@mla_write.register_fake
def _(cache: list[Tensor], *arguments: object) -> None:
    return None
