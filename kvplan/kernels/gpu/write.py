"""Writing new tokens into the paged cache: a block of tokens of one head per program, keys then values."""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: RUF005
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.encode import store_channels, store_tokens
from kvplan.kernels.gpu.tile import pack_of
from kvplan.kernels.gpu.walk import coded_length


@triton.jit
def load_slices(X, line, ok, D: tl.constexpr, CODE: tl.constexpr):
    """Rows starting at elements ``line`` [R] as fp32 slices [R, WP] that match the packing."""
    PACK: tl.constexpr = pack_of(CODE)
    W: tl.constexpr = D // PACK
    WP: tl.constexpr = triton.next_power_of_2(W)
    d = tl.arange(0, WP)
    x = ()
    for j in tl.static_range(PACK):
        mask = ok[:, None] & (d < W)[None, :]
        x = x + (tl.load(X + line[:, None] + (j * W + d)[None, :], mask=mask, other=0.0).to(tl.float32),)
    return x


@triton.jit
def copy_rows(X, source, C, target, ok, D: tl.constexpr):
    """Copy 16-bit rows (passed as int16, so that no conversion touches them)."""
    DP: tl.constexpr = triton.next_power_of_2(D)
    d = tl.arange(0, DP)
    mask = ok[:, None] & (d < D)[None, :]
    x = tl.load(X + source[:, None] + d[None, :], mask=mask, other=0)
    tl.store(C + target[:, None] + d[None, :], x, mask=mask)


@triton.jit(do_not_specialize=["tokens", "HKV"])
def write(XK, XV, SLOTS, K, V, KS, KM, VS, VM, KT, VT, tokens, HKV, D: tl.constexpr, BS: tl.constexpr,
          TB: tl.constexpr, KCODE: tl.constexpr, KSCALING: tl.constexpr, KGROUP: tl.constexpr,
          KKIND: tl.constexpr, VCODE: tl.constexpr, VSCALING: tl.constexpr, VGROUP: tl.constexpr,
          VKIND: tl.constexpr):  # fmt: skip
    """Grid (blocks of TB tokens, KV heads). Tokens whose slot is negative are skipped."""
    h = tl.program_id(1)
    token = tl.program_id(0) * TB + tl.arange(0, TB)
    there = token < tokens
    slot = tl.load(SLOTS + token, mask=there, other=-1)
    ok = there & (slot >= 0)
    source = (token.to(tl.int64) * HKV + h) * D
    rows = (slot // BS * HKV + h) * BS + slot % BS
    if KCODE == 0:
        copy_rows(XK, source, K, rows * D, ok, D)
        copy_rows(XV, source, V, rows * D, ok, D)
    else:
        x = load_slices(XK, source, ok, D, KCODE)
        store_tokens(x, K, KS, KM, KT, rows, ok, h, D, KCODE, KSCALING, KGROUP, KKIND)
        x = load_slices(XV, source, ok, D, VCODE)
        store_tokens(x, V, VS, VM, VT, rows, ok, h, D, VCODE, VSCALING, VGROUP, VKIND)


@triton.jit
def pending(X, R, line, ring_line, is_new, is_old, D: tl.constexpr, CODE: tl.constexpr):
    """Tokens that leave the ring: from the ring when they were there before this call, else from the
    input."""
    new = load_slices(X, line, is_new, D, CODE)
    old = load_slices(R, ring_line, is_old, D, CODE)
    x = ()
    for j in tl.static_range(len(new)):
        x = x + (new[j] + old[j],)
    return x


@triton.jit(do_not_specialize=["table_stride", "HKV"])
def write_groups(XK, XV, STARTS, LENGTHS, ROWS, TABLE, K, V, KS, KM, VS, VM, VT, RK, RV, table_stride, HKV,
                 D: tl.constexpr, BS: tl.constexpr, RING: tl.constexpr,
                 KCODE: tl.constexpr, KGROUP: tl.constexpr, VCODE: tl.constexpr, VSCALING: tl.constexpr,
                 VGROUP: tl.constexpr, VKIND: tl.constexpr):  # fmt: skip
    """KIVI, first launch: code the token groups that leave the ring. Grid (sequences, KV heads, groups)."""
    b = tl.program_id(0)
    h = tl.program_id(1)
    begin = tl.load(STARTS + b)
    length = tl.load(LENGTHS + b)
    cached = length - (tl.load(STARTS + b + 1) - begin)
    first = coded_length(cached, RING, KGROUP) + tl.program_id(2) * KGROUP
    if first < coded_length(length, RING, KGROUP):
        position = first + tl.arange(0, KGROUP)
        is_new = position >= cached
        line = ((begin + position - cached).to(tl.int64) * HKV + h) * D
        ring_line = ((tl.load(ROWS + b).to(tl.int64) * HKV + h) * RING + position % RING) * D
        page = tl.load(TABLE + b.to(tl.int64) * table_stride + first // BS).to(tl.int64)
        rows = (page * HKV + h) * BS + position % BS
        ok = position >= 0
        x = pending(XK, RK, line, ring_line, is_new, position < cached, D, KCODE)
        store_channels(x, K, KS, KM, rows, ok, D, KCODE, KGROUP)
        x = pending(XV, RV, line, ring_line, is_new, position < cached, D, VCODE)
        store_tokens(x, V, VS, VM, VT, rows, ok, h, D, VCODE, VSCALING, VGROUP, VKIND)


@triton.jit(do_not_specialize=["HKV"])
def write_ring(XK, XV, STARTS, LENGTHS, ROWS, RK, RV, HKV, D: tl.constexpr, RING: tl.constexpr,
               KGROUP: tl.constexpr, TB: tl.constexpr):  # fmt: skip
    """KIVI, second launch (it overwrites what the first one reads): the rest goes into the ring as it is.

    Grid (sequences, KV heads, RING / TB). Tensors are passed as int16.
    """
    b = tl.program_id(0)
    h = tl.program_id(1)
    begin = tl.load(STARTS + b)
    length = tl.load(LENGTHS + b)
    cached = length - (tl.load(STARTS + b + 1) - begin)
    kept = tl.maximum(coded_length(length, RING, KGROUP), cached)
    position = kept + tl.program_id(2) * TB + tl.arange(0, TB)
    ok = position < length
    source = ((begin + position - cached).to(tl.int64) * HKV + h) * D
    target = ((tl.load(ROWS + b).to(tl.int64) * HKV + h) * RING + position % RING) * D
    copy_rows(XK, source, RK, target, ok, D)
    copy_rows(XV, source, RV, target, ok, D)
