"""The loop over tiles of cached tokens, shared by decode and append, and where those tokens lie."""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: E741, RUF005
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.orders import all_apart, fragment_rows, in_fragments, join_slices, joined
from kvplan.kernels.gpu.scales import pack_of, row_scales
from kvplan.kernels.gpu.sides import (
    add_keys_times_queries,
    add_weighted_values,
    by_other,
    by_query,
    keys_times_queries,
)
from kvplan.kernels.gpu.tile import decay_all, scores, softmax_step, weigh


@triton.jit
def page_of(table, t, end, BS: tl.constexpr, PAGED: tl.constexpr):
    """The page of the tile that begins at token ``t``, where a tile lies in one page; 0 past the end.

    Loops ask for the next tile's page one tile ahead: the address of a tile must not wait for a load.
    """
    if PAGED:
        page = tl.load(table + t // BS, mask=t < end, other=0)
    else:
        page = t * 0
    return page


@triton.jit
def locate(table, page, t, n, end, HKV, h, BS: tl.constexpr, PAGED: tl.constexpr,
           MASKED: tl.constexpr):  # fmt: skip
    """Cache rows of tokens ``t + n`` as (base, offset): one page per tile, or one lookup per token."""
    if PAGED:
        where = ((page.to(tl.int64) * HKV + h) * BS + t % BS, n)
    else:
        position = t + n
        if MASKED:
            pages = tl.load(table + position // BS, mask=position < end, other=0).to(tl.int64)
        else:
            pages = tl.load(table + position // BS).to(tl.int64)
        where = (h * 0, (pages * HKV + h) * BS + position % BS)
    return where


@triton.jit
def within(position, ok, lo, hi, SWAP: tl.constexpr):
    """Which tokens which query columns see: ``lo <= position < hi``, where the token is ``ok``."""
    there = by_other(position, SWAP)
    return by_other(ok, SWAP) & (there < by_query(hi, SWAP)) & (there >= by_query(lo, SWAP))


@triton.jit
def scales_of(KS, KM, VS, VM, table, page, t, end, HKV, h, D: tl.constexpr, BS: tl.constexpr,
              BN: tl.constexpr, PAGED: tl.constexpr, KCODE: tl.constexpr, KSCALING: tl.constexpr,
              KGROUP: tl.constexpr, KKIND: tl.constexpr, VCODE: tl.constexpr, VSCALING: tl.constexpr,
              VGROUP: tl.constexpr, VKIND: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """``row_scales`` of keys and of values, of the tile that begins at token ``t``.

    Rows past ``end`` have zeros; where not MASKED, anything.
    """
    if KSCALING == 3 or KSCALING == 4 or VSCALING == 3 or VSCALING == 4:
        base, offset = locate(table, page, t, tl.arange(0, BN), end, HKV, h, BS, PAGED, True)
        ok = t + tl.arange(0, BN) < end
        M: tl.constexpr = MASKED or not PAGED
        ks, km = row_scales(KS, KM, base, offset, ok, D, KCODE, KSCALING, KGROUP, KKIND, M)
        vs, vm = row_scales(VS, VM, base, offset, ok, D, VCODE, VSCALING, VGROUP, VKIND, M)
        found = (ks, km, vs, vm)
    else:
        found = ((), (), (), ())
    return found


@triton.jit
def step(K, V, KS, KM, VS, VM, ks, km, vs, vm, table, page, t, end, first, lo, hi, q, qsum, factor, m, l,
         pmin, acc, HKV, h, D: tl.constexpr, BS: tl.constexpr, BN: tl.constexpr, PAGED: tl.constexpr,
         KCODE: tl.constexpr, KSCALING: tl.constexpr, KGROUP: tl.constexpr, KKIND: tl.constexpr,
         VCODE: tl.constexpr, VSCALING: tl.constexpr, VGROUP: tl.constexpr, VKIND: tl.constexpr,
         CT: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr,
         DEFER: tl.constexpr, MASKED: tl.constexpr, SWAP: tl.constexpr):  # fmt: skip
    """One tile of coded pages; ``page`` as ``page_of`` found it, scales as ``scales_of`` did."""
    base, offset = locate(table, page, t, tl.arange(0, BN), end, HKV, h, BS, PAGED, MASKED)
    position = t + tl.arange(0, BN)
    rows_ok = (position < end) & (position >= first)
    visible = within(position, rows_ok, lo, hi, SWAP)
    if in_fragments(KCODE, KSCALING, KGROUP, D, BN, SWAP):
        n = fragment_rows(BN)
        keys, key_offset = locate(table, page, t, n, end, HKV, h, BS, PAGED, MASKED)
        keys_ok = (t + n < end) & (t + n >= first)
    else:
        keys, key_offset, keys_ok = base, offset, rows_ok
    st = scores(K, KS, KM, ks, km, q, qsum, keys, key_offset, keys_ok, D, BN, KCODE, KSCALING, KGROUP, KKIND,
                CT, FOLD, ASM, NATIVE, MASKED, SWAP)  # fmt: skip
    p, m, l, alpha = softmax_step(st, factor, visible, m, l, DEFER, MASKED, SWAP)
    acc, pmin = weigh(
        V, VS, VM, vs, vm, p, alpha, pmin, acc, base, offset, rows_ok, D, BN, VCODE, VSCALING, VGROUP, VKIND,
        CT, ASM, NATIVE, DEFER, MASKED, SWAP,
    )  # fmt: skip
    return m, l, pmin, acc


@triton.jit
def masked_step(K, V, KS, KM, VS, VM, table, t, end, first, lo, hi, q, qsum, factor, m, l, pmin, acc, HKV, h,
                D: tl.constexpr, BS: tl.constexpr, BN: tl.constexpr, PAGED: tl.constexpr,
                KCODE: tl.constexpr, KSCALING: tl.constexpr, KGROUP: tl.constexpr, KKIND: tl.constexpr,
                VCODE: tl.constexpr, VSCALING: tl.constexpr, VGROUP: tl.constexpr, VKIND: tl.constexpr,
                CT: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr,
                DEFER: tl.constexpr, SWAP: tl.constexpr):  # fmt: skip
    """One tile at an edge, with nothing loaded ahead."""
    page = page_of(table, t, end, BS, PAGED)
    ks, km, vs, vm = scales_of(
        KS, KM, VS, VM, table, page, t, end, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE,
        VSCALING, VGROUP, VKIND, True,
    )  # fmt: skip
    return step(
        K, V, KS, KM, VS, VM, ks, km, vs, vm, table, page, t, end, first, lo, hi, q, qsum, factor, m, l, pmin,
        acc, HKV, h, D, BS, BN, PAGED, KCODE, KSCALING, KGROUP, KKIND, VCODE, VSCALING, VGROUP, VKIND, CT,
        FOLD, ASM, NATIVE, DEFER, True, SWAP,
    )  # fmt: skip


@triton.jit
def ring_rows(P, line, ok, W: tl.constexpr, CT: tl.constexpr):
    """[BN, W] of a ring, from elements ``line`` [BN, 1] on; rows that are not ``ok`` read zero."""
    d = tl.arange(0, W)
    mask = ok[:, None] & (d >= 0)[None, :]
    # fp32 first: the interpreter's bf16 is only a bit pattern.
    return tl.load(P + line + d[None, :], mask=mask, other=0.0).to(tl.float32).to(CT)


@triton.jit
def ring_step(RK, RV, row, t, first, end, lo, hi, q, factor, m, l, pmin, acc, HKV, h,
              RING: tl.constexpr, D: tl.constexpr, BN: tl.constexpr, KCODE: tl.constexpr,
              VCODE: tl.constexpr, CT: tl.constexpr, ASM: tl.constexpr, DEFER: tl.constexpr,
              SWAP: tl.constexpr):  # fmt: skip
    """One masked tile of the residual ring: 16-bit keys and values, sliced as the packed ones are."""
    KW: tl.constexpr = D // pack_of(KCODE)
    VW: tl.constexpr = D // pack_of(VCODE)
    position = t + tl.arange(0, BN)
    ok = (position >= first) & (position < end)
    line = ((row.to(tl.int64) * HKV + h) * RING + position % RING)[:, None] * D
    visible = within(position, ok, lo, hi, SWAP)
    for j in tl.static_range(D // KW):
        k = all_apart((ring_rows(RK + j * KW, line, ok, KW, CT),), KCODE, SWAP)[0]
        if j == 0:
            st = keys_times_queries(k, q[j], SWAP)
        else:
            st = add_keys_times_queries(k, q[j], st, SWAP)
    p, m, l, alpha = softmax_step(st, factor, visible, m, l, DEFER, True, SWAP)
    pc = p.to(CT)
    out = ()
    if joined(VCODE, D, SWAP):
        values = ()
        for j in tl.static_range(D // VW):
            values = values + (ring_rows(RV + j * VW, line, ok, VW, CT),)
        whole = join_slices(values, ASM)
        out = out + (add_weighted_values(whole, pc, acc[0] * by_query(alpha, SWAP), SWAP),)
    else:
        for j in tl.static_range(D // VW):
            v = all_apart((ring_rows(RV + j * VW, line, ok, VW, CT),), VCODE, SWAP)[0]
            out = out + (add_weighted_values(v, pc, acc[j] * by_query(alpha, SWAP), SWAP),)
    return m, l, decay_all(pmin, alpha, DEFER, SWAP), out


@triton.jit
def coded_length(length, RING: tl.constexpr, TOKENS: tl.constexpr):
    """Tokens of a sequence that lie in coded pages; the rest is in the ring.

    Whole groups of TOKENS leave the ring when it would exceed RING tokens, so between RING - TOKENS + 1 and
    RING of the newest stay in 16 bits.
    """
    if RING == 0:
        coded = length
    else:
        coded = tl.minimum(tl.cdiv(tl.maximum(length - RING, 0), TOKENS) * TOKENS, length)
    return coded
