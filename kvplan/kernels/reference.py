"""The same operations in plain torch, on any device: the CPU backend, and the oracle of the kernels.

``compute`` chooses the arithmetic: float64 for an oracle, float32 for use. Loops over sequences are plain
Python; nothing here tries to be fast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kvplan.kernels.batch import PagedBatch
from kvplan.kernels.cache import PagedKVCache
from kvplan.kernels.formats import Scaling, TensorFormat
from kvplan.kernels.packing import decode, decode_scale, unpack
from kvplan.kernels.quantize import Coded, quantize, quantize_channels


def coded_length(length: int, residual: int, group: int) -> int:
    """Tokens of a sequence that lie in coded pages; the newest ones are in the ring.

    Whole groups leave the ring when it would exceed ``residual`` tokens.
    """
    if residual == 0:
        return length
    return min(-(-max(length - residual, 0) // group) * group, length)


def dequantize(
    codes: Tensor, scale: Tensor, minimum: Tensor, static: Tensor, side: TensorFormat, compute: torch.dtype
) -> Tensor:
    """Numbers of whole pages.

    Args:
        codes: [..., H, BS, W]; scale and minimum as in ``PagedKVCache``; static: fp32 [1] or [H].

    Returns:
        [..., H, BS, D] in ``compute``.
    """
    x = decode(unpack(codes, side), side.code, compute)
    if side.scaling is Scaling.NONE:
        return x
    if side.scaling in (Scaling.TENSOR, Scaling.HEAD):
        return x * static.to(compute)[:, None, None]
    s = decode_scale(scale, side, compute)
    if side.scaling is Scaling.CHANNEL:
        s = s.repeat_interleave(side.group, dim=-2)
        m = minimum.to(compute).repeat_interleave(side.group, dim=-2)
        return x * s + m
    group = x.shape[-1] // s.shape[-1]
    x = x * s.repeat_interleave(group, dim=-1) * static.to(compute)[:, None, None]
    return x + minimum.to(compute).repeat_interleave(group, dim=-1) if side.asymmetric else x


def gather(cache: PagedKVCache, batch: PagedBatch, b: int, compute: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values of sequence ``b`` as a reader sees them: two [L, H, D] in ``compute``."""
    length = int(batch.lengths[b])
    fmt = cache.format
    pages = batch.block_table[b, : -(-length // cache.block_size)].long()
    sides = []
    for name, side in (("key", fmt.key), ("value", fmt.value)):
        stored = [getattr(cache, f"{name}{suffix}") for suffix in ("", "_scale", "_minimum")]
        codes, scale, minimum = (t[pages] if t.numel() else t for t in stored)
        x = dequantize(codes, scale, minimum, getattr(cache, f"{name}_static"), side, compute)
        x = x.transpose(1, 2).flatten(0, 1)[:length]
        if fmt.residual:
            start = coded_length(length, fmt.residual, fmt.token_group)
            slots = torch.arange(start, length, device=x.device) % fmt.residual
            ring: Tensor = getattr(cache, f"{name}_ring")
            row = int(batch.ring_rows()[b])
            x = torch.cat([x[:start], ring[row][:, slots].transpose(0, 1).to(compute)])
        sides.append(x)
    return sides[0], sides[1]


def attention(
    query: Tensor,
    cache: PagedKVCache,
    batch: PagedBatch,
    *,
    scale: float | None = None,
    window: int = 0,
    compute: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Paged attention of the new tokens; see ``attention.paged_attention``. Returns (out, lse) in
    ``compute``."""
    tokens, heads, dim = query.shape
    scale = 1 / math.sqrt(dim) if scale is None else scale
    out = torch.zeros(tokens, heads, dim, dtype=compute, device=query.device)
    lse = torch.full((tokens, heads), -math.inf, dtype=compute, device=query.device)
    starts = batch.starts().tolist()
    for b in range(batch.sequences):
        length, first, last = int(batch.lengths[b]), starts[b], starts[b + 1]
        if last == first or length == 0:
            continue
        key, value = gather(cache, batch, b, compute)
        position = torch.arange(length - (last - first), length, device=query.device)
        cached = torch.arange(length, device=query.device)
        hidden = cached[None] > position[:, None]
        if window:
            hidden |= cached[None] <= position[:, None] - window
        q = query[first:last].to(compute).unflatten(1, (cache.kv_heads, -1))
        s = torch.einsum("thgd,nhd->thgn", q, key) * scale
        s = s.masked_fill(hidden[:, None, None, :], -math.inf)
        lse[first:last] = torch.logsumexp(s, -1).flatten(1)
        out[first:last] = torch.einsum("thgn,nhd->thgd", s.softmax(-1), value).flatten(1, 2)
    return out, lse


def write(cache: PagedKVCache, key: Tensor, value: Tensor, slots: Tensor) -> None:
    """Quantize tokens [T, H, D] into the slots (int64 [T], -1 to skip) of formats that code tokens alone."""
    keep = slots >= 0
    page, offset = slots[keep] // cache.block_size, slots[keep] % cache.block_size
    for name, x, side in (("key", key, cache.format.key), ("value", value, cache.format.value)):
        _store(cache, name, quantize(x[keep], side, getattr(cache, f"{name}_static")), page, offset)


def append(cache: PagedKVCache, key: Tensor, value: Tensor, batch: PagedBatch) -> None:
    """Write the new tokens of a batch; for KIVI, code the groups that leave the ring and keep the rest in
    it."""
    fmt = cache.format
    if not fmt.residual:
        write(cache, key, value, batch.slots(cache.block_size, key.shape[0]))
        return
    starts = batch.starts().tolist()
    for b in range(batch.sequences):
        length, fresh = int(batch.lengths[b]), starts[b + 1] - starts[b]
        row, new = int(batch.ring_rows()[b]), slice(starts[b], starts[b + 1])
        before = coded_length(length - fresh, fmt.residual, fmt.token_group)
        after = coded_length(length, fmt.residual, fmt.token_group)
        old = torch.arange(before, length - fresh, device=key.device) % fmt.residual
        for name, x in (("key", key), ("value", value)):
            ring: Tensor = getattr(cache, f"{name}_ring")
            pending = torch.cat([ring[row][:, old].transpose(0, 1).to(x.dtype), x[new]])
            _store_groups(cache, name, pending[: after - before], batch.block_table[b], before)
            kept = torch.arange(max(after, length - fresh), length, device=key.device)
            ring[row][:, kept % fmt.residual] = pending[kept - before].transpose(0, 1).to(ring.dtype)


def _store_groups(cache: PagedKVCache, name: str, x: Tensor, table: Tensor, first: int) -> None:
    if x.shape[0] == 0:
        return
    side: TensorFormat = getattr(cache.format, name)
    g, size = cache.format.token_group, cache.block_size
    positions = torch.arange(first, first + x.shape[0], device=x.device)
    page, offset = table[positions // size].long(), positions % size
    if side.scaling is not Scaling.CHANNEL:
        _store(cache, name, quantize(x, side, getattr(cache, f"{name}_static")), page, offset)
        return
    coded = quantize_channels(x.unflatten(0, (-1, g)), side)
    _store(cache, name, Coded(coded.codes.flatten(0, 1), None, None), page, offset)
    assert coded.scale is not None
    assert coded.minimum is not None
    getattr(cache, f"{name}_scale")[page[::g], :, offset[::g] // g] = coded.scale
    getattr(cache, f"{name}_minimum")[page[::g], :, offset[::g] // g] = coded.minimum


def _store(cache: PagedKVCache, name: str, coded: Coded, page: Tensor, offset: Tensor) -> None:
    held: Tensor = getattr(cache, name)
    held[page, :, offset] = coded.codes.to(held.dtype) if held.dtype != torch.uint8 else coded.codes
    if coded.scale is not None:
        getattr(cache, f"{name}_scale")[page, :, offset] = coded.scale
    if coded.minimum is not None:
        getattr(cache, f"{name}_minimum")[page, :, offset] = coded.minimum
