"""Prefill and append: several new tokens per sequence, already written, against the whole paged cache.

Grid (blocks of query columns, KV heads, sequences). A column is a (token, query head) pair, packed so that
the heads that share a KV head share its tiles. Column c of a sequence is token ``c // GQ``, head ``c % GQ``.
"""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: E741
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.query import finish, load_query, static_scale, zero_state
from kvplan.kernels.gpu.scales import elementwise, pack_of
from kvplan.kernels.gpu.sides import by_other, by_query
from kvplan.kernels.gpu.tile import gain_of
from kvplan.kernels.gpu.walk import coded_length, masked_step, page_of, ring_step, scales_of, step


@triton.jit(do_not_specialize=["window", "table_stride", "HQ", "HKV", "GQ"])
def append(Q, K, V, KS, KM, VS, VM, KT, VT, RK, RV, ROWS, TABLE, LENGTHS, STARTS, OUT, LSE,
           scale, window, table_stride, HQ, HKV, GQ,
           D: tl.constexpr, BS: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
           PAGED: tl.constexpr, WINDOWED: tl.constexpr, RING: tl.constexpr,
           KCODE: tl.constexpr, KSCALING: tl.constexpr, KGROUP: tl.constexpr, KKIND: tl.constexpr,
           VCODE: tl.constexpr, VSCALING: tl.constexpr, VGROUP: tl.constexpr, VKIND: tl.constexpr,
           CT: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr,
           SWAP: tl.constexpr):  # fmt: skip
    """See ``launch.append`` for shapes."""
    b = tl.program_id(2)
    h = tl.program_id(1)
    # The last columns see the most tokens: they begin first.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    begin = tl.load(STARTS + b)
    tokens = tl.load(STARTS + b + 1) - begin
    if block * BM < tokens * GQ:
        column = block * BM + tl.arange(0, BM)
        ok = column < tokens * GQ
        token = column // GQ
        rows = (begin + token) * HQ + h * GQ + column % GQ
        length = tl.load(LENGTHS + b)
        position = length - tokens + token
        coded = coded_length(length, RING, KGROUP)
        hi = tl.where(ok, position + 1, 0)
        lo = tl.maximum(position + 1 - window, 0) if WINDOWED else position * 0
        first_token = block * BM // GQ
        last_token = tl.minimum((block * BM + BM - 1) // GQ, tokens - 1)
        lowest = length - tokens + first_token
        end = length - tokens + last_token + 1
        oldest = tl.maximum(lowest + 1 - window, 0) if WINDOWED else length * 0
        KW: tl.constexpr = D // pack_of(KCODE)
        q, qsum, factor = load_query(Q, rows, ok, scale, D, KCODE, CT, SWAP)
        plain = factor
        factor = factor * (
            static_scale(KT, h, KSCALING, KKIND)
            * gain_of(KCODE, elementwise(KSCALING, KGROUP, KW, SWAP), NATIVE)
        )
        m, l, pmin, acc = zero_state(BN, BM, D, VCODE, VSCALING, VGROUP, False, SWAP)
        table = TABLE + b.to(tl.int64) * table_stride
        stop = tl.minimum(end, coded)
        # Tokens that every column sees, from ``full`` to ``inner``, need no mask.
        full = (oldest // BN) * BN
        inner = tl.maximum(tl.minimum(lowest + 1, coded) // BN * BN, full)
        if WINDOWED:
            first = full
            full = tl.minimum(tl.cdiv(tl.maximum(end - window, 0), BN) * BN, inner)
            for t in tl.range(first, full, BN, num_stages=1):
                m, l, pmin, acc = masked_step(
                    K, V, KS, KM, VS, VM, table, t, stop, oldest, lo, hi, q, qsum, factor, m, l, pmin, acc,
                    HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING, VGROUP, VKIND,
                    CT, FOLD, ASM, NATIVE, False, SWAP,
                )  # fmt: skip
        ahead = page_of(table, full, stop, BS, PAGED)
        ks, km, vs, vm = scales_of(
            KS, KM, VS, VM, table, ahead, full, stop, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING,
            KGROUP, KKIND, VCODE, VSCALING, VGROUP, VKIND, False,
        )  # fmt: skip
        for t in range(full, inner, BN):
            page = ahead
            ahead = page_of(table, t + BN, stop, BS, PAGED)
            k0, k1, v0, v1 = ks, km, vs, vm
            ks, km, vs, vm = scales_of(
                KS, KM, VS, VM, table, ahead, t + BN, stop, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING,
                KGROUP, KKIND, VCODE, VSCALING, VGROUP, VKIND, False,
            )  # fmt: skip
            m, l, pmin, acc = step(
                K, V, KS, KM, VS, VM, k0, k1, v0, v1, table, page, t, stop, oldest, lo, hi, q, qsum, factor,
                m, l, pmin, acc, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING,
                VGROUP, VKIND, CT, FOLD, ASM, NATIVE, False, False, SWAP,
            )  # fmt: skip
        for t in tl.range(inner, stop, BN, num_stages=1):
            m, l, pmin, acc = masked_step(
                K, V, KS, KM, VS, VM, table, t, stop, oldest, lo, hi, q, qsum, factor, m, l, pmin, acc, HKV,
                h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING, VGROUP, VKIND, CT, FOLD,
                ASM, NATIVE, False, SWAP,
            )  # fmt: skip
        if RING > 0:
            row = tl.load(ROWS + b)
            for t in tl.range(coded, end, BN, num_stages=1):
                m, l, pmin, acc = ring_step(
                    RK, RV, row, t, tl.maximum(coded, oldest), end, lo, hi, q, plain, m, l, pmin, acc,
                    HKV, h, RING, D, BN, KCODE, VCODE, CT, False, SWAP,
                )  # fmt: skip
        l, out = finish(l, pmin, acc, D, VCODE, VSCALING, VGROUP, NATIVE, False, SWAP)
        safe = tl.where(l > 0.0, l, 1.0)
        gain = static_scale(VT, h, VSCALING, VKIND) / safe
        VW: tl.constexpr = D // pack_of(VCODE)
        d = tl.arange(0, triton.next_power_of_2(VW))
        for j in tl.static_range(len(out)):
            mask = by_other(d < VW, SWAP) & by_query(ok, SWAP)
            o = (out[j] * by_query(gain, SWAP)).to(OUT.dtype.element_ty)
            place = by_query(rows, SWAP).to(tl.int64) * D + by_other(j * VW + d, SWAP)
            tl.store(OUT + place, o, mask=mask)
        lse = (m + tl.log2(safe)) * 0.6931471805599453
        tl.store(LSE + rows, tl.where(l > 0.0, lse, float("-inf")), mask=ok)
