"""Launching the MLA kernels; see ``launch`` for the conventions."""

from __future__ import annotations

import torch
from torch import Tensor

from kvplan.kernels.batch import PagedBatch
from kvplan.kernels.cache import COUNTERS
from kvplan.kernels.formats import LATENT_DIM
from kvplan.kernels.gpu import mla as mla_kernel
from kvplan.kernels.launch import combine, constants, multiprocessors, target
from kvplan.kernels.mla_cache import MLACache
from kvplan.kernels.splits import choose_splits, worth_fusing
from kvplan.kernels.variants import DIRECT, FUSED, PARTIAL, Choice, Target
from kvplan.kernels.variants_mla import MLA_SHARE, mla_columns, mla_programs, mla_variant, write_mla_variant


def splits_for(query: Tensor, cache: MLACache, batch: PagedBatch, each: int = 0,
               share: int = MLA_SHARE) -> int:  # fmt: skip
    """Splits, from shapes alone; arguments as those of ``launch.splits_for``."""
    columns = query.shape[1] * batch.max_query
    on = target(query.device.index)
    block = mla_columns(columns, on)
    held = each or mla_programs(cache.format, block, on)
    return choose_splits(
        programs=batch.sequences * -(-columns // block),
        tokens=batch.block_table.shape[1] * cache.block_size,
        multiprocessors=multiprocessors(query.device.index),
        per_multiprocessor=held,
        enough=min(2, held),
        smallest_share=share,
        ring=False,
    )


def attention(query: Tensor, cache: MLACache, batch: PagedBatch, *, scale: float, splits: int, fused: bool,
              on: Target | None = None, out: Tensor | None = None,
              choice: Choice | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Absorbed queries [T, HQ, 576] to (out [T, HQ, 512], lse fp32 [T, HQ])."""
    on = on or target(query.device.index)
    tokens, heads, _ = query.shape
    out = query.new_empty(tokens, heads, LATENT_DIM) if out is None else out
    lse = torch.empty(tokens, heads, dtype=torch.float32, device=query.device)
    if tokens == 0:
        return out, lse
    mode = DIRECT if splits == 1 else PARTIAL
    one = batch.query_starts is None
    variant = mla_variant(
        cache.format, block_size=cache.block_size, columns=batch.max_query * heads, mode=mode, one=one,
        target=on,
    )  # fmt: skip
    variant = choice.applied(variant, cache.block_size) if choice else variant
    starts = batch.lengths if one else batch.starts()
    block = variant.constants["BH"]
    columns = -(-batch.max_query * heads // block)
    worth = worth_fusing(splits, min(batch.max_query * heads, block), LATENT_DIM)
    if fused and worth and batch.sequences * columns <= COUNTERS:
        mode = variant.constants["MODE"] = FUSED
    rows = tokens * heads if mode != DIRECT else 0
    top = torch.empty(rows, splits, dtype=torch.float32, device=query.device)
    total = torch.empty_like(top)
    part = torch.empty(rows, splits, LATENT_DIM, dtype=torch.float32, device=query.device)
    mla_kernel.mla[(columns, batch.sequences, splits)](
        query, cache.latent, cache.rope, cache.scale, batch.block_table, batch.lengths, starts, out, lse,
        top, total, part, cache.counters, scale, batch.block_table.stride(0), splits, heads,
        **constants(variant),
    )  # fmt: skip
    if mode == PARTIAL:
        combine(top, total, part, out, lse)
    return out, lse


def write(cache: MLACache, latent: Tensor, rope: Tensor, slots: Tensor) -> None:
    """Latents [T, 512] and RoPE keys [T, 64] into slots (int64 [T], negative to skip)."""
    tokens = latent.shape[0]
    if tokens == 0:
        return
    variant = write_mla_variant(cache.format)
    raw = cache.latent.dtype != torch.uint8
    source, held = (
        (latent.view(torch.int16), cache.latent.view(torch.int16)) if raw else (latent, cache.latent)
    )
    mla_kernel.write_mla[(-(-tokens // variant.constants["TB"]),)](
        source, rope.view(torch.int16), slots, held, cache.rope.view(torch.int16), cache.scale, tokens,
        **constants(variant),
    )  # fmt: skip
