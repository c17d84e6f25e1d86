"""From the parts that splits leave to outputs."""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: E741, RUF005
from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def rows_at_once(most, width):
    """Output rows that one program combines together: as many as its registers hold."""
    return max(1, min(most, 512 // triton.next_power_of_2(width)))


@triton.constexpr_function
def lots_at_once(rows, width):
    """Lots of eight splits that are loaded together: as many as registers hold."""
    return max(1, 512 // (rows * width))


@triton.jit
def store_lse(LSE, row, m, l, ok):
    """The natural logarithm of the softmax denominators 2^m l; minus infinity where nothing was seen."""
    lse = (m + tl.log2(tl.where(l > 0.0, l, 1.0))) * 0.6931471805599453
    tl.store(LSE + row, tl.where(l > 0.0, lse, float("-inf")), mask=ok)


@triton.jit
def combine(PM, PL, PO, OUT, LSE, row, ok, splits, D: tl.constexpr, FIRST, WIDTH: tl.constexpr):
    """Columns FIRST to FIRST + WIDTH of output rows [R] from their (at most 128) splits, weighted by
    2^(m - max m), in a fixed order.

    Rows that are not ``ok`` are neither read nor written.
    """
    W: tl.constexpr = triton.next_power_of_2(WIDTH)
    LOTS: tl.constexpr = lots_at_once(row.shape[0], W)
    s = tl.arange(0, 128)
    first = row.to(tl.int64) * splits
    at = first[:, None] + s[None, :]
    there = ok[:, None] & (s < splits)[None, :]
    # .cg: these lines were written by other multiprocessors; the L1 of this one may hold stale ones.
    m = tl.load(PM + at, mask=there, other=-1e30, cache_modifier=".cg")
    l = tl.load(PL + at, mask=there, other=0.0, cache_modifier=".cg")
    top = tl.max(m, 1)
    total = tl.sum(l * tl.exp2(m - top[:, None]), 1)
    safe = tl.where(total > 0.0, total, 1.0)
    d = FIRST + tl.arange(0, W)
    wide = d < FIRST + WIDTH
    o = tl.zeros([row.shape[0], W], tl.float32)
    for begin in tl.range(0, splits, 8 * LOTS, num_stages=1):
        # All loads first: the wait for them is most of the time.
        weights = ()
        parts = ()
        for j in tl.static_range(LOTS):
            c = begin + j * 8 + tl.arange(0, 8)
            part = first[:, None] + c[None, :]
            here = ok[:, None] & (c < splits)[None, :]
            weights = weights + (tl.load(PM + part, mask=here, other=-1e30, cache_modifier=".cg"),)
            mask = here[:, :, None] & wide[None, None, :]
            place = PO + part[:, :, None] * D + d[None, None, :]
            parts = parts + (tl.load(place, mask=mask, other=0.0, cache_modifier=".cg"),)
        for j in tl.static_range(LOTS):
            o += tl.sum(parts[j] * tl.exp2(weights[j] - top[:, None])[:, :, None], 1)
    place = row.to(tl.int64)[:, None] * D + d[None, :]
    mask = ok[:, None] & wide[None, :]
    tl.store(OUT + place, (o / safe[:, None]).to(OUT.dtype.element_ty), mask=mask)
    store_lse(LSE, row, top, total, ok & (row * 0 + FIRST == 0))


@triton.jit(do_not_specialize=["splits"])
def reduce(PM, PL, PO, OUT, LSE, splits, D: tl.constexpr, WIDTH: tl.constexpr):
    """Second stage: one program per output row and WIDTH of its columns."""
    row = tl.program_id(0) + tl.arange(0, 1)
    combine(PM, PL, PO, OUT, LSE, row, row >= 0, splits, D, tl.program_id(1) * WIDTH, WIDTH)
