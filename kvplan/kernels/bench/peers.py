"""Other implementations of the same attention, timed side by side on the same machine.

torch's SDPA gets contiguous keys and values (what paging would have to gather first), so it has less to do
than a paged kernel; it is the floor of a bf16 implementation without quantization. A peer that cannot be
imported or fails is recorded with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kvplan.kernels.bench.points import Point

POINTS = tuple(
    Point("peer", "decode", "bf16", hq, hkv, 128, batch, context)
    for hq, hkv in ((32, 8), (32, 32))
    for batch, context in ((1, 2048), (1, 32768), (16, 8192), (64, 2048), (64, 8192))
)
PREFILL = tuple(
    Point("peer", "append", "bf16", 32, 8, 128, 1, tokens, new_tokens=tokens) for tokens in (2048, 8192)
)


@dataclass(slots=True)
class Peer:
    """A peer at a point: ``make`` returns its launches, and raises where it cannot run."""

    name: str
    point: Point
    make: Callable[[str], list[Callable[[], object]]]
    eager: bool = False


def peers(tiny: bool) -> Iterator[Peer]:
    """Every peer at every point; for a dry run SDPA alone at one small point."""
    if tiny:
        yield Peer("sdpa", Point("peer", "decode", "bf16", 4, 2, 64, 2, 16), lambda dev: sdpa(PEER_TINY, dev))
        return
    for point in (*POINTS, *PREFILL):
        yield Peer("sdpa", point, lambda dev, p=point: sdpa(p, dev))
    for point in POINTS[:5]:
        for fp8 in (False, True):
            name = "flashinfer_fp8_e4m3" if fp8 else "flashinfer_bf16"
            yield Peer(name, point, lambda dev, p=point, f=fp8: flashinfer(p, dev, f), eager=True)
    for point in (*POINTS[2:4], *PREFILL[:1]):
        yield Peer("flex_attention", point, lambda dev, p=point: flex(p, dev), eager=True)


PEER_TINY = Point("peer", "decode", "bf16", 4, 2, 64, 2, 16)


def _dense(point: Point, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = (point.batch, point.hkv, point.context, point.d)
    key, value = (torch.randn(shape, dtype=torch.bfloat16, device=device) for _ in range(2))
    query = torch.randn(point.batch, point.hq, point.new_tokens, point.d, dtype=torch.bfloat16, device=device)
    return query, key, value


def _buffers(point: Point) -> int:
    """Caches to rotate, so that none is found in the L2: three times 50 MB, as far as they are small."""
    return min(16, max(2, -(-150_000_000 // max(point.kv_bytes(), 1))))


def sdpa(point: Point, device: str) -> list[Callable[[], object]]:
    """``scaled_dot_product_attention`` on contiguous keys and values."""
    causal = point.new_tokens > 1
    held = [_dense(point, device) for _ in range(_buffers(point))]
    return [
        lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
        for q, k, v in held
    ]


def flex(point: Point, device: str) -> list[Callable[[], object]]:
    """Compiled ``flex_attention`` on contiguous keys and values."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    held = [_dense(point, device) for _ in range(_buffers(point))]
    mask = None
    if point.new_tokens > 1:
        mask = create_block_mask(
            lambda b, h, q, k: q >= k, None, None, point.new_tokens, point.context, device=device
        )
    compiled = torch.compile(flex_attention)
    return [lambda q=q, k=k, v=v: compiled(q, k, v, block_mask=mask, enable_gqa=True) for q, k, v in held]


def flashinfer(point: Point, device: str, fp8: bool) -> list[Callable[[], object]]:
    """FlashInfer's paged batch decode, HND pages of 64."""
    import flashinfer as fi  # type: ignore[import-not-found]

    pages = -(-point.context // point.block_size)
    shape = (point.batch * pages, 2, point.hkv, point.block_size, point.d)
    dtype = torch.float8_e4m3fn if fp8 else torch.bfloat16
    caches = [
        torch.randn(shape, dtype=torch.bfloat16, device=device).to(dtype) for _ in range(_buffers(point))
    ]
    work = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    wrapper = fi.BatchDecodeWithPagedKVCacheWrapper(work, kv_layout="HND", use_tensor_cores=True)
    starts = torch.arange(point.batch + 1, dtype=torch.int32, device=device) * pages
    indices = torch.randperm(point.batch * pages, device=device).int()
    last = torch.full(
        (point.batch,), (point.context - 1) % point.block_size + 1, dtype=torch.int32, device=device
    )
    wrapper.plan(starts, indices, last, point.hq, point.hkv, point.d, point.block_size,
                 q_data_type=torch.bfloat16, kv_data_type=dtype)  # fmt: skip
    query = torch.randn(point.batch, point.hq, point.d, dtype=torch.bfloat16, device=device)
    return [lambda cache=cache: wrapper.run(query, cache) for cache in caches]
