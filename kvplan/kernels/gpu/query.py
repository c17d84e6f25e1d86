"""Loading queries, and turning accumulators into outputs: what surrounds the loop over tiles."""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: E741, RUF005
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.orders import (
    in_fragments,
    joined,
    key_slice,
    queries_like_keys,
    together,
    value_elementwise,
)
from kvplan.kernels.gpu.scales import pack_of
from kvplan.kernels.gpu.sides import by_other, by_query, other_axis, tile_zeros
from kvplan.kernels.gpu.tile import gain_of

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_query(Q, rows, ok, scale, D: tl.constexpr, BN: tl.constexpr, CODE: tl.constexpr,
               SCALING: tl.constexpr, GROUP: tl.constexpr, CT: tl.constexpr,
               SWAP: tl.constexpr):  # fmt: skip
    """Query columns as slices that match those of the keys, each column scaled to a largest |q| in [1,
    2).

    The power of two taken out of each column keeps fp16 products in range whatever the magnitude of q, and
    loses nothing; it comes back in ``factor``.

    Args:
        rows: [BH] row numbers of a [rows, D] query; ok: which of them exist.
        scale: softmax scale, natural units.

    Returns:
        (slices of [WP, BH] or [BH, WP], their sums over D as [BH], factor [BH] in log2 units).
    """
    W: tl.constexpr = key_slice(CODE, SCALING, GROUP, D, BN, SWAP)
    SLICES: tl.constexpr = D // W
    FRAGMENTS: tl.constexpr = in_fragments(CODE, SCALING, GROUP, D, BN, SWAP)
    WP: tl.constexpr = triton.next_power_of_2(W)
    d = tl.arange(0, WP)
    raw = ()
    for j in tl.static_range(SLICES):
        mask = by_other(d < W, SWAP) & by_query(ok, SWAP)
        place = by_query(rows, SWAP).to(tl.int64) * D + by_other(j * W + d, SWAP)
        x = tl.load(Q + place, mask=mask, other=0.0)
        raw = raw + (x.to(tl.float32),)
    top = tl.max(tl.abs(raw[0]), other_axis(SWAP))
    for j in tl.static_range(1, SLICES):
        top = tl.maximum(top, tl.max(tl.abs(raw[j]), other_axis(SWAP)))
    # Exponent bits alone are the largest power of two not above the column's maximum.
    power = tl.maximum((top.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True), 1e-30)
    q = ()
    qsum = ()
    for j in tl.static_range(SLICES):
        x = (raw[j] / by_query(power, SWAP)).to(CT)
        qsum = qsum + (tl.sum(x.to(tl.float32), other_axis(SWAP)),)
        q = q + (queries_like_keys(x, CODE, FRAGMENTS, SWAP),)
    return q, qsum, power * (scale * LOG2E)


@triton.jit
def anew(x, ASM: tl.constexpr):
    """The integer x, of which the compiler cannot see that it is x.

    What follows from it behind a loop is then computed there; else it is computed before the loop and keeps
    its registers throughout.
    """
    if ASM:
        x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=False, pack=1)
    return x


@triton.jit
def static_scale(T, h, SCALING: tl.constexpr, KIND: tl.constexpr):
    """The fp32 scale of a tensor or head that was set before writing; 1 where the format has none."""
    s = 1.0
    if SCALING == 1 or KIND == 1:
        s = tl.load(T)
    if SCALING == 2:
        s = tl.load(T + h)
    return s


@triton.jit
def zero_state(BN: tl.constexpr, BH: tl.constexpr, D: tl.constexpr, CODE: tl.constexpr,
               SCALING: tl.constexpr, GROUP: tl.constexpr, DEFER: tl.constexpr,
               SWAP: tl.constexpr):  # fmt: skip
    """Accumulators before the first tile: (m, l, pmin, acc) as ``tile.weigh`` wants them."""
    EW: tl.constexpr = value_elementwise(CODE, SCALING, GROUP, D, SWAP)
    TILES: tl.constexpr = 1 if joined(CODE, D, SWAP) else pack_of(CODE)
    SLICED: tl.constexpr = TILES if (SCALING == 4 and not EW) else 1
    acc = ()
    pmin = ()
    for _ in tl.static_range(TILES):
        acc = acc + (tile_zeros(triton.next_power_of_2(D // TILES), BH, SWAP),)
    zero = tile_zeros(BN, BH, SWAP) if DEFER else tl.zeros([BH], tl.float32)
    for _ in tl.static_range(SLICED):
        if (CODE == 4 or CODE == 5) and not EW:
            pmin = pmin + (zero,)
    return tl.full([BH], -1e30, tl.float32), zero, pmin, acc


@triton.jit
def finish(l, pmin, acc, D: tl.constexpr, CODE: tl.constexpr, SCALING: tl.constexpr,
           GROUP: tl.constexpr, NATIVE: tl.constexpr, DEFER: tl.constexpr, SWAP: tl.constexpr):  # fmt: skip
    """Row sums and unnormalised outputs: minima added, powers of two restored."""
    EW: tl.constexpr = value_elementwise(CODE, SCALING, GROUP, D, SWAP)
    SLICED: tl.constexpr = SCALING == 4 and not EW
    out = ()
    for j in tl.static_range(len(acc)):
        o = acc[j]
        if (CODE == 4 or CODE == 5) and not EW:
            pm = pmin[j if SLICED else 0]
            pm = tl.sum(pm, other_axis(SWAP)) if DEFER else pm
            o = o + by_query(pm, SWAP)
        out = out + (together(o, D, CODE, SWAP) * gain_of(CODE, EW, NATIVE),)
    return (tl.sum(l, other_axis(SWAP)) if DEFER else l), out
