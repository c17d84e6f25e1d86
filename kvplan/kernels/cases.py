"""Correctness cases of the kernels: random caches with every trap set, and the bounds results must meet.

Used twice: by the tests, in Triton's interpreter, and by ``benchmark``, on a GPU. A case poisons what must
not be read (unused pages, codes and scales of unused rows, table entries past the end) and what must be
written (the output), and compares with float64 on the dequantized cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvplan.kernels import mla_cache, reference
from kvplan.kernels.batch import PagedBatch
from kvplan.kernels.cache import PagedKVCache
from kvplan.kernels.formats import LATENT_DIM, ROPE_DIM, Code, get_format
from kvplan.kernels.mla_cache import MLACache

INTERPRETER_BOUND = 2e-6
"""Relative Frobenius error of fp32 arithmetic against float64."""
FOLDED_BOUND = 2e-4
"""The same with folded biases: a bias of up to 1152 passes through the fp32 sums before it cancels."""
FP16_BOUND, BF16_BOUND = 1e-3, 6e-3
LSE_BOUND = 2e-3

POISON_BYTE = 0x7F
"""As a scale or e4m3 code this is NaN; as packed codes it is merely wrong."""


@dataclass(frozen=True, slots=True)
class Case:
    """One correctness case. ``queries`` None means decode; ``heads`` are query heads per KV head."""

    format: str
    lengths: tuple[int, ...]
    head_dim: int = 128
    block_size: int = 32
    kv_heads: int = 1
    group: int = 4
    window: int = 0
    splits: int = 1
    fused: bool = False
    queries: tuple[int, ...] | None = None
    fold: bool = False
    query_scale: float = 1.0

    @property
    def name(self) -> str:
        """A short readable identifier."""
        kind = f"{'append' if self.queries else 'decode'}-s{self.splits}{'f' if self.fused else ''}"
        extra = f"-w{self.window}" if self.window else ""
        extra += "-fold" if self.fold else ""
        shape = f"g{self.group}-d{self.head_dim}-p{self.block_size}"
        return f"{self.format}-{kind}-{shape}{extra}"

    def bound(self, interpreted: bool) -> float:
        """Largest allowed relative error of the output."""
        if interpreted:
            return FOLDED_BOUND if self.fold else INTERPRETER_BOUND
        return BF16_BOUND if self.format in ("bf16", "mla_bf16") else FP16_BOUND


@dataclass(slots=True)
class Built:
    """A case made concrete: caches and query on a device, and the exact answer."""

    cache: Any
    batch: PagedBatch
    query: Tensor
    expected: Tensor
    expected_lse: Tensor


def page_table(lengths: tuple[int, ...], block_size: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """A permuted block table; unused entries are far out of range. Also the pages needed, three more than
    used."""
    pages = [-(-n // block_size) for n in lengths]
    total = sum(pages) + 3
    order = torch.randperm(total, generator=generator)
    table = torch.full((len(lengths), max(pages, default=0) + 1), 1 << 28, dtype=torch.int32)
    used = 0
    for b, n in enumerate(pages):
        table[b, :n] = order[used : used + n]
        used += n
    return table, total


def poison(tensors: list[Tensor]) -> None:
    """Fill with NaN, or with bytes that are NaN as fp8."""
    for t in tensors:
        t.fill_(POISON_BYTE if t.dtype == torch.uint8 else math.nan)


def tokens(case: Case, generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    """Random keys with an outlier channel, and values, in the 16-bit type of the format."""
    dtype = torch.float16 if case.format == "fp16" else torch.bfloat16
    key = torch.randn(*shape, generator=generator)
    key[..., 5] *= 8
    value = torch.randn(*shape, generator=generator) + 0.25
    return key.to(dtype), value.to(dtype)


def build(case: Case, device: str = "cpu", seed: int = 0) -> Built:
    """Fill a cache with the reference writer, poison the rest, and compute the float64 answer."""
    g = torch.Generator().manual_seed(seed)
    fmt = get_format(case.format)
    table, pages = page_table(case.lengths, case.block_size, g)
    lengths = torch.tensor(case.lengths, dtype=torch.int32)
    fill = PagedBatch.build(table, lengths, list(case.lengths))
    batch = PagedBatch.build(table, lengths, list(case.queries) if case.queries is not None else None)
    count = sum(case.queries) if case.queries is not None else len(case.lengths)
    dtype = torch.float16 if case.format == "fp16" else torch.bfloat16
    if fmt.latent:
        mla = MLACache.allocate(fmt, num_blocks=pages, block_size=case.block_size)
        poison(mla.tensors()[:-1])
        latent, rope = (
            torch.randn(sum(case.lengths), n, generator=g).to(dtype) for n in (LATENT_DIM, ROPE_DIM)
        )
        mla_cache.write(mla, latent, rope, fill.slots(case.block_size, sum(case.lengths)))
        query = torch.randn(count, case.group, LATENT_DIM + ROPE_DIM, generator=g).to(dtype)
        expected, lse = mla_cache.attention(query, mla, batch, scale=192**-0.5, compute=torch.float64)
        moved: Any = MLACache.from_tensors(case.format, [t.to(device) for t in mla.tensors()])
    else:
        cache = PagedKVCache.allocate(
            fmt, num_blocks=pages, block_size=case.block_size, kv_heads=case.kv_heads, head_dim=case.head_dim,
            max_sequences=len(case.lengths), residual_dtype=dtype,
        )  # fmt: skip
        key, value = tokens(case, g, sum(case.lengths), case.kv_heads, case.head_dim)
        computed = [cache.key_scale, cache.key_minimum, cache.value_scale, cache.value_minimum]
        poison([cache.key, cache.value, *computed, cache.key_ring, cache.value_ring])
        cache.calibrate(key, value)
        reference.append(cache, key, value, fill)
        heads = case.kv_heads * case.group
        query = (torch.randn(count, heads, case.head_dim, generator=g) * case.query_scale).to(dtype)
        expected, lse = reference.attention(query, cache, batch, window=case.window, compute=torch.float64)
        moved = PagedKVCache.from_tensors(case.format, case.head_dim, [t.to(device) for t in cache.tensors()])
    batch = PagedBatch(
        table.to(device), lengths.to(device),
        None if batch.query_starts is None else batch.query_starts.to(device), batch.max_query,
    )  # fmt: skip
    return Built(moved, batch, query.to(device), expected, lse)


def run(case: Case, built: Built) -> tuple[Tensor, Tensor]:
    """Launch the Triton kernel of a case into a poisoned fp32 output (16-bit rounding would hide errors)."""
    from kvplan.kernels import launch, launch_mla
    from kvplan.kernels.variants import Target

    on = launch.target(built.query.device.index)
    if launch.INTERPRETED:
        on = Target(None, case.fold)
    q = built.query
    if get_format(case.format).latent:
        out = q.new_full((*q.shape[:2], LATENT_DIM), math.nan, dtype=torch.float32)
        return launch_mla.attention(
            q, built.cache, built.batch, scale=192**-0.5, splits=case.splits, fused=case.fused, on=on, out=out
        )
    out = torch.full_like(q, math.nan, dtype=torch.float32)
    scale = 1 / math.sqrt(case.head_dim)
    return launch.attend(
        q, built.cache, built.batch, scale=scale, window=case.window, splits=case.splits, fused=case.fused,
        on=on, out=out,
    )  # fmt: skip


def errors(built: Built, out: Tensor, lse: Tensor) -> tuple[float, float]:
    """Relative Frobenius error of the output, largest error of the lse; NaN when anything is unwritten."""
    out, lse = out.double().cpu(), lse.double().cpu()
    there = torch.isfinite(built.expected_lse)
    if not torch.equal(there, torch.isfinite(lse)) or not bool(torch.isfinite(out).all()):
        return math.nan, math.nan
    norm = float(built.expected.norm())
    relative = float((out - built.expected).norm()) / (norm or 1.0)
    # Relative where it is large: huge queries give an lse of a million.
    off = ((lse - built.expected_lse).abs() / built.expected_lse.abs().clamp_min(1.0))[there]
    return relative, float(off.max()) if off.numel() else 0.0


def is_float(format_name: str) -> bool:
    """Whether a format stores 16-bit numbers as they are."""
    return get_format(format_name).key.code is Code.FLOAT16


def check_write(format_name: str, device: str) -> str | None:
    """Write awkward tokens with the kernel and with the rules; what differs, or ``None``.

    Zeros, constants, an outlier, tiny numbers and exact ties; for KIVI a prompt, a step and a chunk in turn.
    """
    from kvplan.kernels import launch, launch_mla

    fmt = get_format(format_name)
    g = torch.Generator().manual_seed(1)
    dtype = torch.float16 if format_name == "fp16" else torch.bfloat16
    kind: Any = MLACache if fmt.latent else PagedKVCache
    shape = (
        {} if fmt.latent else {"kv_heads": 2, "head_dim": 128, "max_sequences": 2, "residual_dtype": dtype}
    )
    pair = [
        kind.allocate(fmt, num_blocks=10, block_size=32, device=where, **shape) for where in (device, "cpu")
    ]
    if fmt.residual:
        table = torch.tensor([[3, 0, 5, 7, 4, 8], [1, 6, 2, 9, 0, 0]], dtype=torch.int32)
        lengths = [0, 0]
        for fresh in ([150, 3], [1, 90], [20, 32]):
            lengths = [a + b for a, b in zip(lengths, fresh, strict=True)]
            x = awkward(sum(fresh), (2, 128), g).to(dtype)
            held = torch.tensor(lengths, dtype=torch.int32)
            batch = PagedBatch.build(table.to(device), held.to(device), fresh)
            launch.write_append(pair[0], x.to(device), x.flip(0).to(device), batch)
            reference.append(pair[1], x, x.flip(0), PagedBatch.build(table, held, fresh))
    else:
        slots = torch.randperm(320, generator=g)[:40]
        slots[7] = -1
        if fmt.latent:
            latent, rope = awkward(40, (LATENT_DIM,), g).to(dtype), awkward(40, (ROPE_DIM,), g).to(dtype)
            launch_mla.write(pair[0], latent.to(device), rope.to(device), slots.to(device))
            mla_cache.write(pair[1], latent, rope, slots)
        else:
            x = awkward(40, (2, 128), g).to(dtype)
            for cache in pair:
                cache.calibrate(x.to(cache.device), x.flip(0).to(cache.device))
            for name in ("key_static", "value_static"):
                getattr(pair[0], name).copy_(getattr(pair[1], name))
            launch.write(pair[0], x.to(device), x.flip(0).to(device), slots.to(device))
            reference.write(pair[1], x, x.flip(0), slots)
    for i, (a, b) in enumerate(zip(pair[0].tensors()[:-1], pair[1].tensors()[:-1], strict=True)):
        if a.numel() and not torch.equal(a.cpu().view(torch.uint8), b.view(torch.uint8)):
            off = int((a.cpu().view(torch.uint8) != b.view(torch.uint8)).sum())
            return f"tensor {i} differs in {off} of {a.numel() * a.element_size()} bytes"
    return None


def awkward(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random tokens [count, *shape], five of which are traps for a quantizer."""
    x = torch.randn(count, *shape, generator=generator) * 2
    traps = min(count, 5)
    x[0] = 0
    if traps > 4:
        x[1] = 7.5
        x[2, ..., 3] = 2e4
        x[3] *= 1e-6
        x[4] = torch.arange(shape[-1]) / 8
    return x
