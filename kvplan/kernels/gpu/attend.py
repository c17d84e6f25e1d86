"""Attention of new tokens to their paged cache: decode, and prompts or pieces of them.

Grid (sequences x blocks of query columns, KV heads, splits). A column is a (new token, query head) pair:
column c of a sequence and KV head is token ``c // GQ``, head ``c % GQ``. A program walks its share of the
cached tokens and leaves either the output itself (one split), or an unnormalised partial output with its
running maximum and sum for ``reduce``, or, in the fused mode, lets the last program of a block to arrive
combine them.

Few columns stand on the N side of the matrix unit and share the tokens between splits; a prompt's hundreds
are rows, up to 128 in a block (``sides``).
"""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: E741
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.query import anew, finish, load_query, static_scale, zero_state
from kvplan.kernels.gpu.reduce import combine, rows_at_once, store_lse
from kvplan.kernels.gpu.scales import elementwise, pack_of
from kvplan.kernels.gpu.sides import by_other, by_query
from kvplan.kernels.gpu.tile import gain_of
from kvplan.kernels.gpu.walk import coded_length, masked_step, page_of, ring_step, scales_of, step


@triton.jit
def row_of(column, begin, h, HQ, GQ, ONE: tl.constexpr):
    """Rows of the query [T, HQ] of columns of one sequence, whose first new token is ``begin``."""
    if ONE:
        row = begin * HQ + h * GQ + column
    else:
        row = (begin + column // GQ) * HQ + h * GQ + column % GQ
    return row


# Integers are not specialised: a variant must not be compiled again for every batch shape.
@triton.jit(do_not_specialize=["window", "table_stride", "splits", "blocks", "HQ", "HKV", "GQ"])
def attend(Q, K, V, KS, KM, VS, VM, KT, VT, RK, RV, ROWS, TABLE, LENGTHS, STARTS, OUT, LSE, PM, PL, PO, COUNT,
           scale, window, table_stride, splits, blocks, HQ, HKV, GQ,
           D: tl.constexpr, BS: tl.constexpr, BN: tl.constexpr, BH: tl.constexpr, ONE: tl.constexpr,
           PAGED: tl.constexpr, WINDOWED: tl.constexpr, MODE: tl.constexpr, RING: tl.constexpr,
           KCODE: tl.constexpr, KSCALING: tl.constexpr, KGROUP: tl.constexpr, KKIND: tl.constexpr,
           VCODE: tl.constexpr, VSCALING: tl.constexpr, VGROUP: tl.constexpr, VKIND: tl.constexpr,
           CT: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr,
           DEFER: tl.constexpr, SWAP: tl.constexpr):  # fmt: skip
    """See ``launch.attend`` for shapes.

    GQ: query heads per KV head. ONE: one new token per sequence. MODE: ``variants.DIRECT`` and so on.
    """
    b = tl.program_id(0) // blocks
    # The last columns of a prompt see the most tokens: they begin first.
    block = blocks - 1 - tl.program_id(0) % blocks
    h = tl.program_id(1)
    s = tl.program_id(2)
    begin = b if ONE else tl.load(STARTS + b)
    tokens = b * 0 + 1 if ONE else tl.load(STARTS + b + 1) - begin
    if block * BH < tokens * GQ:
        column = block * BH + tl.arange(0, BH)
        ok = column < tokens * GQ
        rows = row_of(column, begin, h, HQ, GQ, ONE)
        length = tl.load(LENGTHS + b)
        # Tokens that a column sees; the first ones that all columns see; those that any sees.
        lowest = length
        highest = length
        hi = tl.zeros([BH], tl.int32) + length
        if not ONE:
            hi = tl.where(ok, length - tokens + column // GQ + 1, 0)
            lowest = length - tokens + block * BH // GQ + 1
            highest = length - tokens + tl.minimum((block * BH + BH - 1) // GQ, tokens - 1) + 1
        lo = tl.maximum(hi - window, 0) if WINDOWED else hi * 0
        oldest = tl.maximum(lowest - window, 0) if WINDOWED else length * 0
        coded = coded_length(length, RING, KGROUP)
        KW: tl.constexpr = D // pack_of(KCODE)
        q, qsum, factor = load_query(Q, rows, ok, scale, D, BN, KCODE, KSCALING, KGROUP, CT, SWAP)
        plain = factor
        factor = factor * (
            static_scale(KT, h, KSCALING, KKIND)
            * gain_of(KCODE, elementwise(KSCALING, KGROUP, KW, SWAP), NATIVE)
        )
        m, l, pmin, acc = zero_state(BN, BH, D, VCODE, VSCALING, VGROUP, DEFER, SWAP)
        # The ring, when there is one, is the work of the last split; the others share the coded pages.
        sharers = tl.maximum(splits - 1, 1) if RING > 0 else splits
        origin = (oldest // BN) * BN
        stop = tl.minimum(coded, highest)
        share = tl.cdiv(tl.cdiv(tl.maximum(stop - origin, 0), sharers), BN) * BN
        start = origin + s * share
        end = tl.minimum(start + share, stop)
        table = TABLE + b.to(tl.int64) * table_stride
        if WINDOWED:
            # Tiles across the windows' edges.
            edge = tl.minimum(tl.cdiv(tl.maximum(highest - window, 0), BN) * BN, end)
            for t in tl.range(start, edge, BN, num_stages=1):
                m, l, pmin, acc = masked_step(
                    K, V, KS, KM, VS, VM, table, t, end, oldest, lo, hi, q, qsum, factor, m, l, pmin, acc,
                    HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING, VGROUP, VKIND,
                    CT, FOLD, ASM, NATIVE, DEFER, SWAP,
                )  # fmt: skip
            start = tl.maximum(start, edge)
        # Tiles that every column sees whole need no mask.
        inner = start + tl.maximum(tl.minimum(end, lowest) - start, 0) // BN * BN
        ahead = page_of(table, start, end, BS, PAGED)
        ks, km, vs, vm = scales_of(
            KS, KM, VS, VM, table, ahead, start, end, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP,
            KKIND, VCODE, VSCALING, VGROUP, VKIND, False,
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
                VGROUP, VKIND, CT, FOLD, ASM, NATIVE, DEFER, False, SWAP,
            )  # fmt: skip
        for t in tl.range(inner, end, BN, num_stages=1):
            m, l, pmin, acc = masked_step(
                K, V, KS, KM, VS, VM, table, t, end, oldest, lo, hi, q, qsum, factor, m, l, pmin, acc, HKV, h,
                D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING, VGROUP, VKIND, CT, FOLD,
                ASM, NATIVE, DEFER, SWAP,
            )  # fmt: skip
        if RING > 0:
            ring_end = highest if s == splits - 1 else coded
            row = tl.load(ROWS + b)
            for t in tl.range(coded, ring_end, BN, num_stages=1):
                m, l, pmin, acc = ring_step(
                    RK, RV, row, t, tl.maximum(coded, oldest), highest, lo, hi, q, plain, m, l, pmin, acc,
                    HKV, h, RING, D, BN, KCODE, VCODE, CT, ASM, DEFER, SWAP,
                )  # fmt: skip
        if not SWAP:
            column = block * BH + tl.arange(0, BH)
            begin = anew(begin, ASM)
            ok = column < anew(tokens, ASM) * GQ
            rows = row_of(column, begin, h, HQ, GQ, ONE)
        l, out = finish(l, pmin, acc, D, VCODE, VSCALING, VGROUP, NATIVE, DEFER, SWAP)
        vt = static_scale(VT, h, VSCALING, VKIND)
        VW: tl.constexpr = D // len(out)
        d = tl.arange(0, triton.next_power_of_2(VW))
        mask = by_other(d < VW, SWAP) & by_query(ok, SWAP)
        if MODE == 0:
            safe = tl.where(l > 0.0, l, 1.0)
            for j in tl.static_range(len(out)):
                o = (out[j] * by_query(vt / safe, SWAP)).to(OUT.dtype.element_ty)
                place = by_query(rows, SWAP).to(tl.int64) * D + by_other(j * VW + d, SWAP)
                tl.store(OUT + place, o, mask=mask)
            store_lse(LSE, rows, m, l, ok)
        else:
            part = rows * splits + s
            tl.store(PM + part, m, mask=ok)
            tl.store(PL + part, l, mask=ok)
            for j in tl.static_range(len(out)):
                place = by_query(part, SWAP).to(tl.int64) * D + by_other(j * VW + d, SWAP)
                tl.store(PO + place, out[j] * vt, mask=mask)
            if MODE == 2:
                # Every thread's stores must be visible before the arrival is counted, and the count before
                # the reads of the others' parts; the counter goes back to zero for the next launch (graph
                # replay).
                tl.debug_barrier()
                counter = COUNT + tl.program_id(0) * HKV + h
                arrived = tl.atomic_add(counter, 1, sem="acq_rel")
                if arrived == splits - 1:
                    tl.debug_barrier()
                    R: tl.constexpr = rows_at_once(BH, D)
                    first = block * BH
                    for i in range(first, tl.minimum(first + BH, tokens * GQ), R):
                        c = i + tl.arange(0, R)
                        combine(
                            PM, PL, PO, OUT, LSE, row_of(c, begin, h, HQ, GQ, ONE), c < tokens * GQ, splits,
                            D, 0, D,
                        )  # fmt: skip
                    tl.store(counter, 0)
