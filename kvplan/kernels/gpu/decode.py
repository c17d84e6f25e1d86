"""Split-KV decode: one new token per sequence against its paged cache.

Grid (sequences, KV heads x blocks of query heads, splits). A program walks its share of the cached tokens
and leaves either the output itself (one split), or an unnormalised partial output with its running maximum
and sum for ``reduce``, or, in the fused mode, lets the last program of a head to arrive combine them.
"""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: E741
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.query import finish, load_query, static_scale, zero_state
from kvplan.kernels.gpu.scales import elementwise, pack_of
from kvplan.kernels.gpu.tile import gain_of
from kvplan.kernels.gpu.walk import coded_length, masked_step, page_of, ring_step, scales_of, step

DIRECT, PARTIAL, FUSED = 0, 1, 2
"""How splits become one output: there is one split; a second kernel; the last program to arrive."""


# Integers are not specialised: a variant must not be compiled again for every batch shape.
@triton.jit(do_not_specialize=["window", "table_stride", "splits", "HQ", "HKV", "GQ"])
def decode(Q, K, V, KS, KM, VS, VM, KT, VT, RK, RV, ROWS, TABLE, LENGTHS, OUT, LSE, PM, PL, PO, COUNT,
           scale, window, table_stride, splits, HQ, HKV, GQ,
           D: tl.constexpr, BS: tl.constexpr, BN: tl.constexpr, BH: tl.constexpr, HB: tl.constexpr,
           PAGED: tl.constexpr, WINDOWED: tl.constexpr, MODE: tl.constexpr, RING: tl.constexpr,
           KCODE: tl.constexpr, KSCALING: tl.constexpr, KGROUP: tl.constexpr, KKIND: tl.constexpr,
           VCODE: tl.constexpr, VSCALING: tl.constexpr, VGROUP: tl.constexpr, VKIND: tl.constexpr,
           CT: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr,
           DEFER: tl.constexpr):  # fmt: skip
    """See ``launch.decode`` for shapes. GQ = query heads per KV head."""
    b = tl.program_id(0)
    h = tl.program_id(1) // HB
    s = tl.program_id(2)
    column = (tl.program_id(1) % HB) * BH + tl.arange(0, BH)
    ok = column < GQ
    rows = b * HQ + h * GQ + column
    length = tl.load(LENGTHS + b)
    oldest = tl.maximum(length - window, 0) if WINDOWED else length * 0
    coded = coded_length(length, RING, KGROUP)
    KW: tl.constexpr = D // pack_of(KCODE)
    q, qsum, factor = load_query(Q, rows, ok, scale, D, KCODE, CT, True)
    plain = factor
    factor = factor * (
        static_scale(KT, h, KSCALING, KKIND) * gain_of(KCODE, elementwise(KSCALING, KGROUP, KW, True), NATIVE)
    )
    m, l, pmin, acc = zero_state(BN, BH, D, VCODE, VSCALING, VGROUP, DEFER, True)
    lo = tl.zeros([BH], tl.int32) + oldest
    hi = tl.zeros([BH], tl.int32) + length
    # The ring, when there is one, is the work of the last split; the others share the coded pages.
    sharers = tl.maximum(splits - 1, 1) if RING > 0 else splits
    origin = (oldest // BN) * BN
    share = tl.cdiv(tl.cdiv(tl.maximum(coded - origin, 0), sharers), BN) * BN
    start = origin + s * share
    end = tl.minimum(start + share, coded)
    table = TABLE + b.to(tl.int64) * table_stride
    if WINDOWED:
        # At most one tile lies across the window's edge.
        edge = tl.minimum(tl.cdiv(oldest, BN) * BN, end)
        for t in tl.range(start, edge, BN, num_stages=1):
            m, l, pmin, acc = masked_step(
                K, V, KS, KM, VS, VM, table, t, end, oldest, lo, hi, q, qsum, factor, m, l, pmin, acc, HKV, h,
                D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING, VGROUP, VKIND, CT, FOLD,
                ASM, NATIVE, DEFER, True,
            )  # fmt: skip
        start = tl.maximum(start, edge)
    inner = start + tl.maximum(end - start, 0) // BN * BN
    ahead = page_of(table, start, end, BS, PAGED)
    ks, km, vs, vm = scales_of(
        KS, KM, VS, VM, table, ahead, start, end, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND,
        VCODE, VSCALING, VGROUP, VKIND, False,
    )  # fmt: skip
    for t in range(start, inner, BN):
        page = ahead
        ahead = page_of(table, t + BN, end, BS, PAGED)
        k0, k1, v0, v1 = ks, km, vs, vm
        ks, km, vs, vm = scales_of(
            KS, KM, VS, VM, table, ahead, t + BN, end, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP,
            KKIND, VCODE, VSCALING, VGROUP, VKIND, False,
        )  # fmt: skip
        m, l, pmin, acc = step(
            K, V, KS, KM, VS, VM, k0, k1, v0, v1, table, page, t, end, oldest, lo, hi, q, qsum, factor,
            m, l, pmin, acc, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING,
            VGROUP, VKIND, CT, FOLD, ASM, NATIVE, DEFER, False, True,
        )  # fmt: skip
    for t in tl.range(inner, end, BN, num_stages=1):
        m, l, pmin, acc = masked_step(
            K, V, KS, KM, VS, VM, table, t, end, oldest, lo, hi, q, qsum, factor, m, l, pmin, acc, HKV, h,
            D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING, VGROUP, VKIND, CT, FOLD,
            ASM, NATIVE, DEFER, True,
        )  # fmt: skip
    if RING > 0:
        ring_end = length if s == splits - 1 else coded
        row = tl.load(ROWS + b)
        for t in tl.range(coded, ring_end, BN, num_stages=1):
            m, l, pmin, acc = ring_step(
                RK, RV, row, t, tl.maximum(coded, oldest), length, lo, hi, q, plain, m, l, pmin, acc,
                HKV, h, RING, D, BN, KCODE, VCODE, CT, DEFER, True,
            )  # fmt: skip
    l, out = finish(l, pmin, acc, D, VCODE, VSCALING, VGROUP, NATIVE, DEFER, True)
    vt = static_scale(VT, h, VSCALING, VKIND)
    VW: tl.constexpr = D // pack_of(VCODE)
    d = tl.arange(0, triton.next_power_of_2(VW))
    if MODE == 0:
        safe = tl.where(l > 0.0, l, 1.0)
        for j in tl.static_range(len(out)):
            mask = (d < VW)[:, None] & ok[None, :]
            o = out[j] * (vt / safe)[None, :]
            tl.store(OUT + rows[None, :].to(tl.int64) * D + (j * VW + d)[:, None],
                     o.to(OUT.dtype.element_ty), mask=mask)  # fmt: skip
        lse = (m + tl.log2(safe)) * 0.6931471805599453
        tl.store(LSE + rows, tl.where(l > 0.0, lse, float("-inf")), mask=ok)
    else:
        part = rows * splits + s
        tl.store(PM + part, m, mask=ok)
        tl.store(PL + part, l, mask=ok)
        for j in tl.static_range(len(out)):
            mask = (d < VW)[:, None] & ok[None, :]
            tl.store(PO + part[None, :].to(tl.int64) * D + (j * VW + d)[:, None], out[j] * vt, mask=mask)
        if MODE == 2:
            # Every thread's stores must be visible before the arrival is counted, and the count before the
            # reads of the others' parts; the counter goes back to zero for the next launch (graph replay).
            tl.debug_barrier()
            counter = COUNT + b * HKV * HB + tl.program_id(1)
            arrived = tl.atomic_add(counter, 1, sem="acq_rel")
            if arrived == splits - 1:
                tl.debug_barrier()
                R: tl.constexpr = rows_at_once(BH, D)
                for i in range(0, tl.minimum(BH, GQ), R):
                    head = (tl.program_id(1) % HB) * BH + i + tl.arange(0, R)
                    combine(PM, PL, PO, OUT, LSE, b * HQ + h * GQ + head, head < GQ, splits, D)
                tl.store(counter, 0)


@triton.constexpr_function
def rows_at_once(most, width):
    """Output rows that one program combines together: as many as its registers hold."""
    return max(1, min(most, 512 // triton.next_power_of_2(width)))


@triton.jit
def combine(PM, PL, PO, OUT, LSE, row, ok, splits, D: tl.constexpr):
    """Output rows [R] from their (at most 128) splits, weighted by 2^(m - max m), in a fixed order.

    Rows that are not ``ok`` are neither read nor written.
    """
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
    d = tl.arange(0, triton.next_power_of_2(D))
    o = tl.zeros([row.shape[0], triton.next_power_of_2(D)], tl.float32)
    for begin in tl.range(0, splits, 8, num_stages=1):
        c = begin + tl.arange(0, 8)
        part = first[:, None] + c[None, :]
        here = ok[:, None] & (c < splits)[None, :]
        w = tl.exp2(tl.load(PM + part, mask=here, other=-1e30, cache_modifier=".cg") - top[:, None])
        mask = here[:, :, None] & (d < D)[None, None, :]
        x = tl.load(PO + part[:, :, None] * D + d[None, None, :], mask=mask, other=0.0, cache_modifier=".cg")
        o += tl.sum(x * w[:, :, None], 1)
    place = row.to(tl.int64)[:, None] * D + d[None, :]
    mask = ok[:, None] & (d < D)[None, :]
    tl.store(OUT + place, (o / safe[:, None]).to(OUT.dtype.element_ty), mask=mask)
    lse = (top + tl.log2(safe)) * 0.6931471805599453
    tl.store(LSE + row, tl.where(total > 0.0, lse, float("-inf")), mask=ok)


@triton.jit(do_not_specialize=["splits"])
def reduce(PM, PL, PO, OUT, LSE, splits, D: tl.constexpr):
    """Second stage: one program per output row."""
    row = tl.program_id(0) + tl.arange(0, 1)
    combine(PM, PL, PO, OUT, LSE, row, row >= 0, splits, D)
