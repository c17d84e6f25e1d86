"""Launching the Triton kernels: shapes to grids, tensors to arguments. Arguments were validated by the caller.

Importing this module imports triton. With ``TRITON_INTERPRET=1`` set before that, the same launches run in
Triton's interpreter on CPU tensors.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from kvplan.kernels.batch import PagedBatch
from kvplan.kernels.cache import COUNTERS, PagedKVCache
from kvplan.kernels.gpu import append as append_kernel
from kvplan.kernels.gpu import decode as decode_kernel
from kvplan.kernels.variants import (
    DIRECT,
    FUSED,
    PARTIAL,
    Target,
    Variant,
    append_variant,
    decode_variant,
    reduce_variant,
)

INTERPRETED = type(decode_kernel.reduce).__name__ == "InterpretedFunction"
"""Whether triton was imported in interpreter mode."""


@functools.cache
def target(device_index: int | None = None) -> Target:
    """What kernels are compiled for: the given CUDA device, or the interpreter."""
    if INTERPRETED:
        return Target(None)
    major, minor = torch.cuda.get_device_capability(device_index)
    return Target(major * 10 + minor)


def constants(variant: Variant) -> dict[str, Any]:
    """Compile-time constants and launch options as keyword arguments."""
    resolved = {k: getattr(tl, v) if k == "CT" else v for k, v in variant.constants.items()}
    return resolved | {"num_warps": variant.warps, "num_stages": variant.stages}


def sources(cache: PagedKVCache) -> tuple[Tensor, ...]:
    """The cache arguments that every attention kernel takes, in order."""
    return (
        cache.key, cache.value, cache.key_scale, cache.key_minimum, cache.value_scale, cache.value_minimum,
        cache.key_static, cache.value_static, cache.key_ring, cache.value_ring,
    )  # fmt: skip


def dtype_name(t: Tensor) -> str:
    """``bfloat16``, ``float16`` ..."""
    return str(t.dtype).removeprefix("torch.")


def decode(query: Tensor, cache: PagedKVCache, batch: PagedBatch, *, scale: float, window: int, splits: int,
           fused: bool, on: Target | None = None, out: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One new token per sequence: query [B, HQ, D] to (out [B, HQ, D], lse fp32 [B, HQ])."""
    on = on or target(query.device.index)
    sequences, heads, dim = query.shape
    group = heads // cache.kv_heads
    out = torch.empty_like(query) if out is None else out
    lse = torch.empty(sequences, heads, dtype=torch.float32, device=query.device)
    mode = DIRECT if splits == 1 else PARTIAL
    variant = decode_variant(
        cache.format, head_dim=dim, block_size=cache.block_size, group=group, windowed=window > 0,
        mode=mode, dtype=dtype_name(cache.key), target=on, splits_bound=splits,
    )  # fmt: skip
    blocks = variant.constants["HB"]
    if mode == PARTIAL and fused and sequences * cache.kv_heads * blocks <= COUNTERS:
        mode = variant.constants["MODE"] = FUSED
    if mode != FUSED:
        variant.constants["NS"] = 1
    rows = sequences * heads if mode != DIRECT else 0
    top = torch.empty(rows, splits, dtype=torch.float32, device=query.device)
    total = torch.empty_like(top)
    part = torch.empty(rows, splits, dim, dtype=torch.float32, device=query.device)
    if sequences == 0:
        return out, lse
    decode_kernel.decode[(sequences, cache.kv_heads * blocks, splits)](
        query, *sources(cache), batch.ring_rows(), batch.block_table, batch.lengths, out, lse, top, total, part,
        cache.counters, scale, window, batch.block_table.stride(0), splits, heads, cache.kv_heads, group,
        **constants(variant),
    )  # fmt: skip
    if mode == PARTIAL:
        decode_kernel.reduce[(rows,)](
            top, total, part, out, lse, splits, **constants(reduce_variant(dim, splits))
        )
    return out, lse


def append(query: Tensor, cache: PagedKVCache, batch: PagedBatch, *, scale: float, window: int,
           on: Target | None = None, out: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Several new tokens per sequence: query [T, HQ, D] to (out [T, HQ, D], lse fp32 [T, HQ])."""
    on = on or target(query.device.index)
    tokens, heads, dim = query.shape
    group = heads // cache.kv_heads
    out = torch.empty_like(query) if out is None else out
    lse = torch.empty(tokens, heads, dtype=torch.float32, device=query.device)
    if tokens == 0:
        return out, lse
    variant = append_variant(
        cache.format, head_dim=dim, block_size=cache.block_size, windowed=window > 0,
        dtype=dtype_name(cache.key), target=on,
    )  # fmt: skip
    columns = -(-batch.max_query * group // variant.constants["BM"])
    append_kernel.append[(columns, cache.kv_heads, batch.sequences)](
        query, *sources(cache), batch.ring_rows(), batch.block_table, batch.lengths, batch.starts(), out, lse,
        scale, window, batch.block_table.stride(0), heads, cache.kv_heads, group, **constants(variant),
    )  # fmt: skip
    return out, lse
