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
from kvplan.kernels.bench.arena import Arena
from kvplan.kernels.bench.points import Point
from kvplan.kernels.formats import LATENT_DIM, get_format
from kvplan.kernels.splits import worth_fusing
from kvplan.kernels.variants import Choice, columns_of_a_program
from kvplan.kernels.variants_mla import mla_columns

MOST_BUFFERS = 512
"""More only for caches so small that this many fit in the L2: their rows say so by ``buffers``."""


@dataclass(slots=True)
class Work:
    """Launches of one point on rotating buffers, and what was chosen for them."""

    calls: list[Callable[[], object]]
    chosen: dict[str, Any]


def shape_of(point: Point, pages: int) -> dict[str, Any]:
    """What ``allocate`` needs for a cache of ``pages`` pages."""
    shape: dict[str, Any] = {"num_blocks": pages, "block_size": point.block_size}
    if not get_format(point.format).latent:
        shape |= {"kv_heads": point.hkv, "head_dim": point.d, "max_sequences": point.batch}
    return shape


def pages_seen(point: Point, length: int) -> range:
    """Pages of a sequence that its new tokens see.

    Those that a window has left have no memory of their own, as in an engine that frees them: rotated with
    the few that are read, they would take tens of gigabytes.
    """
    oldest = max(length - point.new_tokens + 1 - point.window, 0) if point.window else 0
    return range(oldest // point.block_size, -(-length // point.block_size))


def build(point: Point, arena: Arena, l2_bytes: int, choice: Choice | None = None) -> Work:
    """Buffers, tables and launches of a point, compiled as ``variants`` chooses or as ``choice`` says.

    As many caches are rotated as make three times the L2; above that one is enough, and in the stage ``warm``
    one is all there is.
    """
    device = arena.device
    lengths = point.lengths()
    seen = [pages_seen(point, n) for n in lengths]
    pages = sum(map(len, seen))
    order = torch.randperm(pages).int()
    # What is past a sequence's end, or older than its window, is never read, but in range.
    table = torch.zeros(point.batch, max(there.stop for there in seen), dtype=torch.int32)
    used = 0
    for b, there in enumerate(seen):
        table[b, there.start : there.stop] = order[used : used + len(there)]
        used += len(there)
    cached = torch.tensor(lengths, dtype=torch.int32, device=device)
    fresh = [point.new_tokens] * point.batch
    rows = torch.arange(point.batch, dtype=torch.int32, device=device)
    batch = PagedBatch.build(table.to(device), cached, None if point.new_tokens == 1 else fresh, rows)
    rotated = 0 if point.stage == "warm" else 3 * l2_bytes
    buffers = min(MOST_BUFFERS, max(1, math.ceil(rotated / max(point.kv_bytes(), 1))))
    caches = arena.caches(get_format(point.format), buffers, shape_of(point, pages))
    dtype = torch.float16 if point.format == "fp16" else torch.bfloat16
    tokens = point.batch * point.new_tokens
    if point.op in ("write", "mla_write"):
        return _writes(point, caches, batch, tokens, dtype, device)
    query = torch.randn(tokens, point.hq, point.d, device=device, dtype=dtype)
    splitting = choice.splitting() if choice else {}
    if point.op == "mla":
        splits = launch_mla.splits_for(query, caches[0], batch, **splitting)
        calls = [_mla(query, c, batch, point, splits, choice) for c in caches]
    else:
        splits = launch.splits_for(query, caches[0], batch, point.window, **splitting)
        calls = [_attend(query, c, batch, point, splits, choice) for c in caches]
    on, columns = launch.target(query.device.index), point.new_tokens * point.hq // point.hkv
    if point.op == "mla":
        rows, width = min(columns, mla_columns(columns, on)), LATENT_DIM
    else:
        held = columns_of_a_program(
            caches[0].format, head_dim=point.d, columns=columns, one=batch.query_starts is None, target=on
        )
        rows, width = min(columns, held), point.d
    fused = point.fused and worth_fusing(splits, rows, width)
    return Work(calls, {"splits": splits, "buffers": buffers, "fused": fused})


def _attend(query: Tensor, cache: Any, batch: PagedBatch, point: Point, splits: int,
            choice: Choice | None) -> Callable[[], object]:  # fmt: skip
    return lambda: launch.attend(
        query, cache, batch, scale=query.shape[-1] ** -0.5, window=point.window, splits=splits,
        fused=point.fused, choice=choice,
    )  # fmt: skip


def _mla(query: Tensor, cache: Any, batch: PagedBatch, point: Point, splits: int,
         choice: Choice | None) -> Callable[[], object]:  # fmt: skip
    return lambda: launch_mla.attention(
        query, cache, batch, scale=192**-0.5, splits=splits, fused=point.fused, choice=choice
    )


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
