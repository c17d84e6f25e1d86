"""Launching the Triton kernels: shapes to grids, tensors to arguments. Arguments were validated by the
caller.

Importing this module imports triton. With ``TRITON_INTERPRET=1`` set before that, the same launches run in
Triton's interpreter on CPU tensors.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kvplan.kernels.batch import PagedBatch
from kvplan.kernels.cache import COUNTERS, PagedKVCache
from kvplan.kernels.gpu import attend as attend_kernel
from kvplan.kernels.gpu import reduce as reduce_kernel
from kvplan.kernels.gpu import write as write_kernel
from kvplan.kernels.splits import choose_splits, worth_fusing
from kvplan.kernels.variants import (
    DIRECT,
    FUSED,
    PARTIAL,
    Choice,
    Target,
    Variant,
    attend_variant,
    columns_of_a_program,
    least_share,
    programs_enough,
    programs_per_multiprocessor,
    reduce_variant,
    release,
    write_groups_variant,
    write_ring_variant,
    write_variant,
)

INTERPRETED = type(reduce_kernel.reduce).__name__ == "InterpretedFunction"
"""Whether triton was imported in interpreter mode."""


@functools.cache
def multiprocessors(device_index: int | None) -> int:
    """Multiprocessors of a CUDA device; 1 in the interpreter."""
    return 1 if INTERPRETED else torch.cuda.get_device_properties(device_index).multi_processor_count


def splits_for(query: Tensor, cache: PagedKVCache, batch: PagedBatch, window: int, each: int = 0,
               share: int = 0) -> int:  # fmt: skip
    """Splits, from shapes alone.

    Args:
        each: programs that share a multiprocessor, 0 for as many as it holds. share: least tokens of a split,
            0 for what is worth one.
    """
    columns = batch.max_query * (query.shape[1] // cache.kv_heads)
    shape: dict[str, Any] = {
        "head_dim": cache.head_dim, "columns": columns, "one": batch.query_starts is None,
        "target": target(query.device.index),
    }  # fmt: skip
    block = columns_of_a_program(cache.format, **shape)
    held = each or programs_per_multiprocessor(cache.format, block_size=cache.block_size, **shape)
    wide = {name: shape[name] for name in ("head_dim", "columns", "one")}
    return choose_splits(
        programs=batch.sequences * cache.kv_heads * -(-columns // block),
        tokens=batch.block_table.shape[1] * cache.block_size,
        multiprocessors=multiprocessors(query.device.index),
        per_multiprocessor=held,
        enough=programs_enough(cache.format, each=held, **wide),
        smallest_share=share or least_share(cache.format, block_size=cache.block_size, **shape),
        window=window + batch.max_query - 1 if window else 0,
        ring=cache.format.residual > 0,
    )


@functools.cache
def target(device_index: int | None = None) -> Target:
    """What kernels are compiled for: the given CUDA device, or the interpreter."""
    if INTERPRETED:
        return Target(None)
    major, minor = torch.cuda.get_device_capability(device_index)
    return Target(major * 10 + minor, triton=release(triton.__version__))


def constants(variant: Variant) -> dict[str, Any]:
    """Compile-time constants and launch options as keyword arguments."""
    resolved = {k: getattr(tl, v) if k == "CT" else v for k, v in variant.constants.items()}
    options = variant.options()
    if INTERPRETED:
        options.pop("enable_fp_fusion", None)
    return resolved | options


def sources(cache: PagedKVCache) -> tuple[Tensor, ...]:
    """The cache arguments that every attention kernel takes, in order."""
    return (
        cache.key, cache.value, cache.key_scale, cache.key_minimum, cache.value_scale, cache.value_minimum,
        cache.key_static, cache.value_static, cache.key_ring, cache.value_ring,
    )  # fmt: skip


def ring_rows(cache: PagedKVCache, batch: PagedBatch) -> Tensor:
    """Ring rows where the format has a ring; else anything that costs no launch."""
    return batch.ring_rows() if cache.format.residual else batch.lengths


def dtype_name(t: Tensor) -> str:
    """``bfloat16``, ``float16`` ..."""
    return str(t.dtype).removeprefix("torch.")


def attend(query: Tensor, cache: PagedKVCache, batch: PagedBatch, *, scale: float, window: int,
           splits: int = 0, fused: bool = True, on: Target | None = None, out: Tensor | None = None,
           choice: Choice | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Query [T, HQ, D] to (out [T, HQ, D], lse fp32 [T, HQ]); ``splits`` 0 to choose them."""
    on = on or target(query.device.index)
    tokens, heads, dim = query.shape
    out = torch.empty_like(query) if out is None else out
    lse = torch.empty(tokens, heads, dtype=torch.float32, device=query.device)
    if tokens == 0:
        return out, lse
    group = heads // cache.kv_heads
    columns = batch.max_query * group
    splits = splits or splits_for(query, cache, batch, window)
    mode = DIRECT if splits == 1 else PARTIAL
    variant = attend_variant(
        cache.format, head_dim=dim, block_size=cache.block_size, columns=columns,
        one=batch.query_starts is None, windowed=window > 0, mode=mode, dtype=dtype_name(cache.key),
        target=on,
    )  # fmt: skip
    variant = choice.applied(variant, cache.block_size) if choice else variant
    block = variant.constants["BH"]
    blocks = -(-columns // block)
    worth = worth_fusing(splits, min(columns, block), dim)
    if fused and worth and batch.sequences * blocks * cache.kv_heads <= COUNTERS:
        mode = variant.constants["MODE"] = FUSED
    rows = tokens * heads if mode != DIRECT else 0
    top = torch.empty(rows, splits, dtype=torch.float32, device=query.device)
    total = torch.empty_like(top)
    part = torch.empty(rows, splits, dim, dtype=torch.float32, device=query.device)
    starts = batch.lengths if batch.query_starts is None else batch.query_starts
    attend_kernel.attend[(batch.sequences * blocks, cache.kv_heads, splits)](
        query, *sources(cache), ring_rows(cache, batch), batch.block_table, batch.lengths, starts, out, lse,
        top, total, part, cache.counters,
        scale, window, batch.block_table.stride(0), splits, blocks, heads, cache.kv_heads, group,
        **constants(variant),
    )  # fmt: skip
    if mode == PARTIAL:
        combine(top, total, part, out, lse)
    return out, lse


def combine(top: Tensor, total: Tensor, part: Tensor, out: Tensor, lse: Tensor) -> None:
    """What splits left, fp32 [rows, splits] and [rows, splits, D], to out and lse: the second launch."""
    rows, splits, dim = part.shape
    variant = reduce_variant(dim)
    grid = (rows, dim // variant.constants["WIDTH"])
    reduce_kernel.reduce[grid](top, total, part, out, lse, splits, **constants(variant))


def write(cache: PagedKVCache, key: Tensor, value: Tensor, slots: Tensor) -> None:
    """Quantize tokens [T, H, D] into slots (int64 [T], negative to skip)."""
    tokens, heads, dim = key.shape
    if tokens == 0:
        return
    variant = write_variant(cache.format, head_dim=dim, block_size=cache.block_size)
    raw = cache.key.dtype != torch.uint8
    held = [t.view(torch.int16) if raw else t for t in (key, value, cache.key, cache.value)]
    blocks = -(-tokens // variant.constants["TB"])
    write_kernel.write[(blocks, heads)](
        held[0], held[1], slots, held[2], held[3], cache.key_scale, cache.key_minimum, cache.value_scale,
        cache.value_minimum, cache.key_static, cache.value_static, tokens, heads, **constants(variant),
    )  # fmt: skip


def write_append(cache: PagedKVCache, key: Tensor, value: Tensor, batch: PagedBatch) -> None:
    """Write the new tokens of a batch into a cache with a residual ring."""
    fmt, dim, heads = cache.format, cache.head_dim, cache.kv_heads
    if key.shape[0] == 0:
        return
    starts, rows = batch.starts(), batch.ring_rows()
    groups = write_groups_variant(fmt, head_dim=dim, block_size=cache.block_size)
    # A sequence that gains n tokens completes at most ceil(n / g) groups.
    most = -(-batch.max_query // fmt.token_group)
    write_kernel.write_groups[(batch.sequences, heads, most)](
        key, value, starts, batch.lengths, rows, batch.block_table, cache.key, cache.value, cache.key_scale,
        cache.key_minimum, cache.value_scale, cache.value_minimum, cache.value_static, cache.key_ring,
        cache.value_ring, batch.block_table.stride(0), heads, **constants(groups),
    )  # fmt: skip
    ring = write_ring_variant(fmt, head_dim=dim)
    key, value, ring_key, ring_value = (
        t.view(torch.int16) for t in (key, value, cache.key_ring, cache.value_ring)
    )
    write_kernel.write_ring[(batch.sequences, heads, fmt.residual // ring.constants["TB"])](
        key, value, starts, batch.lengths, rows, ring_key, ring_value, heads, **constants(ring)
    )
