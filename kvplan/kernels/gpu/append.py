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
from kvplan.kernels.gpu.tile import elementwise, gain_of, pack_of
from kvplan.kernels.gpu.walk import coded_length, page_of, ring_step, step


@triton.jit(do_not_specialize=["window", "table_stride", "HQ", "HKV", "GQ"])
def append(Q, K, V, KS, KM, VS, VM, KT, VT, RK, RV, ROWS, TABLE, LENGTHS, STARTS, OUT, LSE,
           scale, window, table_stride, HQ, HKV, GQ,
           D: tl.constexpr, BS: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
           PAGED: tl.constexpr, WINDOWED: tl.constexpr, RING: tl.constexpr,
           KCODE: tl.constexpr, KSCALING: tl.constexpr, KGROUP: tl.constexpr, KKIND: tl.constexpr,
           VCODE: tl.constexpr, VSCALING: tl.constexpr, VGROUP: tl.constexpr, VKIND: tl.constexpr,
           CT: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr):  # fmt: skip
    """See ``launch.append`` for shapes."""
    b = tl.program_id(2)
    h = tl.program_id(1)
    begin = tl.load(STARTS + b)
    tokens = tl.load(STARTS + b + 1) - begin
    if tl.program_id(0) * BM < tokens * GQ:
        column = tl.program_id(0) * BM + tl.arange(0, BM)
        ok = column < tokens * GQ
        token = column // GQ
        rows = (begin + token) * HQ + h * GQ + column % GQ
        length = tl.load(LENGTHS + b)
        position = length - tokens + token
        coded = coded_length(length, RING, KGROUP)
        hi = tl.where(ok, position + 1, 0)
        lo = tl.maximum(position + 1 - window, 0) if WINDOWED else position * 0
        first_token = (tl.program_id(0) * BM) // GQ
        last_token = tl.minimum((tl.program_id(0) * BM + BM - 1) // GQ, tokens - 1)
        lowest = length - tokens + first_token
        end = length - tokens + last_token + 1
        oldest = tl.maximum(lowest + 1 - window, 0) if WINDOWED else length * 0
        KW: tl.constexpr = D // pack_of(KCODE)
        q, qsum, factor = load_query(Q, rows, ok, scale, D, KCODE, CT)
        plain = factor
        factor = factor * (
            static_scale(KT, h, KSCALING, KKIND) * gain_of(KCODE, elementwise(KSCALING, KGROUP, KW), NATIVE)
        )
        m, l, pmin, acc = zero_state(BN, BM, D, VCODE, VSCALING, VGROUP, False)
        table = TABLE + b.to(tl.int64) * table_stride
        stop = tl.minimum(end, coded)
        inner = (oldest // BN) * BN
        if not WINDOWED and RING == 0:
            # Tokens that every column sees need no mask.
            inner = tl.minimum(lowest + 1, coded) // BN * BN
            ahead = page_of(table, inner * 0, stop, BS, PAGED)
            for t in range(0, inner, BN):
                page = ahead
                ahead = page_of(table, t + BN, stop, BS, PAGED)
                m, l, pmin, acc = step(
                    K, V, KS, KM, VS, VM, table, page, t, stop, oldest, lo, hi, q, qsum, factor, m, l, pmin,
                    acc, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING, VGROUP,
                    VKIND, CT, FOLD, ASM, NATIVE, False, False,
                )  # fmt: skip
        for t in tl.range(inner, stop, BN, num_stages=1):
            page = page_of(table, t, stop, BS, PAGED)
            m, l, pmin, acc = step(
                K, V, KS, KM, VS, VM, table, page, t, stop, oldest, lo, hi, q, qsum, factor, m, l, pmin,
                acc, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING, VGROUP,
                VKIND, CT, FOLD, ASM, NATIVE, False, True,
            )  # fmt: skip
        if RING > 0:
            row = tl.load(ROWS + b)
            for t in tl.range(coded, end, BN, num_stages=1):
                m, l, pmin, acc = ring_step(
                    RK, RV, row, t, tl.maximum(coded, oldest), end, lo, hi, q, plain, m, l, pmin, acc,
                    HKV, h, RING, D, BN, KCODE, VCODE, CT, False,
                )  # fmt: skip
        l, out = finish(l, pmin, acc, D, VCODE, VSCALING, VGROUP, NATIVE, False)
        safe = tl.where(l > 0.0, l, 1.0)
        gain = static_scale(VT, h, VSCALING, VKIND) / safe
        VW: tl.constexpr = D // pack_of(VCODE)
        d = tl.arange(0, triton.next_power_of_2(VW))
        for j in tl.static_range(len(out)):
            mask = (d < VW)[:, None] & ok[None, :]
            o = (out[j] * gain[None, :]).to(OUT.dtype.element_ty)
            tl.store(OUT + rows[None, :].to(tl.int64) * D + (j * VW + d)[:, None], o, mask=mask)
        lse = (m + tl.log2(safe)) * 0.6931471805599453
        tl.store(LSE + rows, tl.where(l > 0.0, lse, float("-inf")), mask=ok)
