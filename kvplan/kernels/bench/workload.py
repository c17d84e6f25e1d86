"""Turning a point into launches on the device: random caches, rotated so that no measurement reads a warm
cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvplan.kernels import launch, launch_mla
from kvplan.kernels.batch import PagedBatch
from kvplan.kernels.bench.points import Point
from kvplan.kernels.cache import PagedKVCache
from kvplan.kernels.formats import Scaling, get_format
from kvplan.kernels.mla_cache import MLACache

MOST_BUFFERS = 24


@dataclass(slots=True)
class Work:
    """Launches of one point on rotating buffers, and what was chosen for them."""

    calls: list[Callable[[], object]]
    chosen: dict[str, Any]


def randomise(t: Tensor) -> None:
    """Random content: finite numbers everywhere, no format's NaN among the codes."""
    if t.dtype == torch.uint8:
        t.random_(0, 0x60)
    elif t.is_floating_point() and t.numel():
        t.normal_()


def randomise_scales(t: Tensor) -> None:
    """Scales near 0.01 (fp16, fp32) or near 1 (bytes: e4m3 0x38 and e8m0 0x7f are 1)."""
    if t.dtype == torch.uint8:
        t.random_(0x30, 0x40)
    elif t.numel():
        t.uniform_(0.005, 0.015)


def make_cache(point: Point, pages: int, device: str) -> Any:
    """A random cache of ``pages`` pages for a point."""
    fmt = get_format(point.format)
    if fmt.latent:
        mla = MLACache.allocate(fmt, num_blocks=pages, block_size=point.block_size, device=device)
        randomise(mla.latent)
        randomise(mla.rope)
        randomise_scales(mla.scale)
        return mla
    cache = PagedKVCache.allocate(
        fmt, num_blocks=pages, block_size=point.block_size, kv_heads=point.hkv, head_dim=point.d,
        device=device, max_sequences=point.batch,
    )  # fmt: skip
    for t in (cache.key, cache.value, cache.key_ring, cache.value_ring):
        randomise(t)
    for t in (cache.key_scale, cache.key_minimum, cache.value_scale, cache.value_minimum):
        randomise_scales(t)
    if Scaling.TENSOR in (fmt.key.scaling, fmt.value.scaling) or fmt.key.scaling is Scaling.HEAD:
        cache.set_scales(0.01, 0.01)
    return cache


def build(point: Point, device: str, l2_bytes: int) -> Work:
    """Buffers, tables and launches of a point.

    As many copies of the cache are rotated as make three times the L2; above that one is enough.
    """
    lengths = point.lengths()
    per_sequence = [-(-n // point.block_size) for n in lengths]
    pages = sum(per_sequence)
    order = torch.randperm(pages, device=device).int()
    # Rows are padded by repeating the last page: never read, but in range.
    table = torch.zeros(point.batch, max(per_sequence), dtype=torch.int32, device=device)
    used = 0
    for b, n in enumerate(per_sequence):
        table[b, :n] = order[used : used + n]
        used += n
    held = torch.tensor(lengths, dtype=torch.int32, device=device)
    fresh = [point.new_tokens] * point.batch
    batch = PagedBatch.build(table, held, None if point.new_tokens == 1 else fresh)
    buffers = min(MOST_BUFFERS, max(1, math.ceil(3 * l2_bytes / max(point.kv_bytes(), 1))))
    caches = [make_cache(point, pages, device) for _ in range(buffers)]
    dtype = torch.float16 if point.format == "fp16" else torch.bfloat16
    tokens = point.batch * point.new_tokens
    if point.op in ("write", "mla_write"):
        return _writes(point, caches, batch, tokens, dtype, device)
    query = torch.randn(tokens, point.hq, point.d, device=device, dtype=dtype)
    if point.op == "mla":
        splits = launch_mla.splits_for(query, caches[0], batch)
        calls = [_mla(query, c, batch, point.fused, splits) for c in caches]
    elif point.op == "append":
        splits = 1
        calls = [_append(query, c, batch, point.window) for c in caches]
    else:
        splits = launch.splits_for(query, caches[0], batch, point.window)
        calls = [_decode(query, c, batch, point, splits) for c in caches]
    return Work(calls, {"splits": splits, "buffers": buffers, "fused": point.fused and splits > 1})


def _decode(query: Tensor, cache: Any, batch: PagedBatch, point: Point, splits: int) -> Callable[[], object]:
    scale, window, fused = query.shape[-1] ** -0.5, point.window, point.fused
    return lambda: launch.decode(query, cache, batch, scale=scale, window=window, splits=splits, fused=fused)


def _append(query: Tensor, cache: Any, batch: PagedBatch, window: int) -> Callable[[], object]:
    return lambda: launch.append(query, cache, batch, scale=query.shape[-1] ** -0.5, window=window)


def _mla(query: Tensor, cache: Any, batch: PagedBatch, fused: bool, splits: int) -> Callable[[], object]:
    return lambda: launch_mla.attention(query, cache, batch, scale=192**-0.5, splits=splits, fused=fused)


def _writes(
    point: Point, caches: list[Any], batch: PagedBatch, tokens: int, dtype: torch.dtype, device: str
) -> Work:
    slots = torch.randperm(caches[0].num_blocks * point.block_size, device=device)[:tokens]
    calls: list[Callable[[], object]] = []
    width = 512 if point.op == "mla_write" else point.d
    shape = (tokens, width) if point.op == "mla_write" else (tokens, point.hkv, width)
    key, value = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
    rope = torch.randn(tokens, 64, device=device, dtype=dtype)
    for cache in caches:
        if point.op == "mla_write":
            calls.append(lambda c=cache: launch_mla.write(c, key, rope, slots))
        elif cache.format.residual:
            calls.append(lambda c=cache: launch.write_append(c, key, value, batch))
        else:
            calls.append(lambda c=cache: launch.write(c, key, value, slots))
    return Work(calls, {"splits": 0, "buffers": len(caches), "fused": False})
