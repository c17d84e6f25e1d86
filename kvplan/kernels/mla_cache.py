"""The paged cache of multi-head latent attention, and its reference operations in plain torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kvplan.errors import UsageError
from kvplan.kernels.batch import PagedBatch
from kvplan.kernels.cache import COUNTERS
from kvplan.kernels.formats import LATENT_DIM, LATENT_TILE, ROPE_DIM, Code, KVFormat, get_format
from kvplan.kernels.packing import E4M3_MAX, encode_float8

SMALLEST_SCALE = 1e-12


@dataclass(slots=True, eq=False)
class MLACache:
    """One layer's latent cache. N pages of BS tokens.

    Attributes:
        format: ``mla_bf16`` or ``mla_fp8``.
        latent: [N, BS, 512] bf16, or uint8 e4m3 codes.
        rope: [N, BS, 64] bf16, the decoupled RoPE key, never quantized.
        scale: fp32 [N, BS, 4], one per 128 latent elements (fp8); empty otherwise.
        counters: int32 scratch of the fused decode, zero between launches.
    """

    format: KVFormat
    latent: Tensor
    rope: Tensor
    scale: Tensor
    counters: Tensor

    @classmethod
    def allocate(
        cls, format: str | KVFormat, *, num_blocks: int, block_size: int, device: str | torch.device = "cpu"
    ) -> MLACache:
        """An empty cache of zeros.

        Raises:
            UnknownName: no such format.
            UsageError: not an MLA format, or a block size it cannot have.
        """
        fmt = get_format(format)
        if not fmt.latent:
            raise UsageError(f"{fmt.name} stores keys and values per head", hint="use PagedKVCache.allocate")
        fmt.require(LATENT_DIM, block_size)
        fp8 = fmt.key.code is Code.E4M3
        dtype = torch.uint8 if fp8 else torch.bfloat16
        scales = (num_blocks, block_size, LATENT_DIM // LATENT_TILE) if fp8 else (0,)
        return cls(
            fmt,
            torch.zeros(num_blocks, block_size, LATENT_DIM, dtype=dtype, device=device),
            torch.zeros(num_blocks, block_size, ROPE_DIM, dtype=torch.bfloat16, device=device),
            torch.zeros(scales, dtype=torch.float32, device=device),
            torch.zeros(COUNTERS, dtype=torch.int32, device=device),
        )

    @property
    def num_blocks(self) -> int:
        """N."""
        return self.latent.shape[0]

    @property
    def block_size(self) -> int:
        """BS."""
        return self.latent.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the cache lies."""
        return self.latent.device

    def tensors(self) -> list[Tensor]:
        """Every tensor, in the order of the attributes."""
        return [self.latent, self.rope, self.scale, self.counters]

    @classmethod
    def from_tensors(cls, format: str, tensors: list[Tensor]) -> MLACache:
        """The inverse of ``tensors``; shares their memory."""
        return cls(get_format(format), *tensors)

    def nbytes(self) -> int:
        """Bytes of latents, RoPE keys and scales."""
        return sum(t.numel() * t.element_size() for t in self.tensors()[:-1])


def write(cache: MLACache, latent: Tensor, rope: Tensor, slots: Tensor) -> None:
    """Write latents [T, 512] and RoPE keys [T, 64] into slots (int64 [T], negative to skip)."""
    keep = slots >= 0
    page, offset = slots[keep] // cache.block_size, slots[keep] % cache.block_size
    cache.rope[page, offset] = rope[keep].to(cache.rope.dtype)
    x = latent[keep]
    if cache.format.key.code is Code.FLOAT16:
        cache.latent[page, offset] = x.to(cache.latent.dtype)
        return
    tiles = x.float().unflatten(-1, (-1, LATENT_TILE))
    scale = (tiles.abs().amax(-1) * (1.0 / E4M3_MAX)).clamp_min(SMALLEST_SCALE)
    codes = encode_float8(tiles * (1.0 / scale)[..., None], Code.E4M3)
    cache.latent[page, offset] = codes.flatten(-2)
    cache.scale[page, offset] = scale


def gather(cache: MLACache, batch: PagedBatch, b: int, compute: torch.dtype) -> tuple[Tensor, Tensor]:
    """Latents [L, 512] and RoPE keys [L, 64] of sequence ``b``."""
    length = int(batch.lengths[b])
    pages = batch.block_table[b, : -(-length // cache.block_size)].long()
    latent = cache.latent[pages]
    if latent.dtype == torch.uint8:
        latent = latent.view(torch.float8_e4m3fn).to(compute).unflatten(-1, (-1, LATENT_TILE))
        latent = (latent * cache.scale[pages].to(compute)[..., None]).flatten(-2)
    flat = latent.to(compute).flatten(0, 1)[:length]
    return flat, cache.rope[pages].to(compute).flatten(0, 1)[:length]


def attention(
    query: Tensor, cache: MLACache, batch: PagedBatch, *, scale: float, compute: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Attention of absorbed queries [T, HQ, 576]; (out [T, HQ, 512], lse [T, HQ]) in ``compute``."""
    tokens, heads, _ = query.shape
    out = torch.zeros(tokens, heads, LATENT_DIM, dtype=compute, device=query.device)
    lse = torch.full((tokens, heads), -math.inf, dtype=compute, device=query.device)
    starts = batch.starts().tolist()
    for b in range(batch.sequences):
        length, first, last = int(batch.lengths[b]), starts[b], starts[b + 1]
        if last == first or length == 0:
            continue
        latent, rope = gather(cache, batch, b, compute)
        position = torch.arange(length - (last - first), length, device=query.device)
        hidden = torch.arange(length, device=query.device)[None] > position[:, None]
        s = torch.einsum("thd,nd->thn", query[first:last].to(compute), torch.cat([latent, rope], -1)) * scale
        s = s.masked_fill(hidden[:, None], -math.inf)
        lse[first:last] = torch.logsumexp(s, -1)
        out[first:last] = torch.einsum("thn,nd->thd", s.softmax(-1), latent)
    return out, lse
