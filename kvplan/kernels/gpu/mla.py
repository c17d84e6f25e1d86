"""Multi-head latent attention on the paged latent: keys are latent and RoPE parts, values are the latent
itself.

Queries are absorbed (projected into the latent space), so one 512-wide latent serves every head as key and
value; a tile of it is loaded and unpacked once and used twice. fp8 latents are multiplied by their scales
when they are unpacked: four scales a row cannot be folded into one score or weight.

Grid (blocks of query columns, sequences, splits): the blocks of a sequence run side by side and read its
latents from memory once. Column c of a sequence is token ``c // HQ``, head ``c % HQ``: decode is the case of
one token each.
"""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: E741
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.codes import unpack
from kvplan.kernels.gpu.encode import float8_code
from kvplan.kernels.gpu.orders import halves_apart, queries_apart, together
from kvplan.kernels.gpu.query import LOG2E, anew
from kvplan.kernels.gpu.reduce import combine, store_lse
from kvplan.kernels.gpu.tile import softmax_step
from kvplan.kernels.gpu.walk import locate, page_of
from kvplan.kernels.gpu.write import copy_rows

GAIN = tl.constexpr(16.0)
"""What fp8 latents are multiplied by besides their scales, so that small ones stay normal in fp16; magnitudes
up to 4094 still fit."""


@triton.jit
def load_columns(Q, line, ok, width: tl.constexpr):
    """[width, BH] of a query, starting at elements ``line`` [BH]."""
    d = tl.arange(0, width)
    mask = (d < width)[:, None] & ok[None, :]
    return tl.load(Q + line[None, :] + d[:, None], mask=mask, other=0.0)


@triton.jit
def load_part(P, base, offset, ok, WIDTH: tl.constexpr):
    """Rows ``base + offset`` of a [rows, WIDTH] tensor; rows that are not ``ok`` read zero.

    The base is a scalar, so that offsets stay 32 bits wide and do not change from tile to tile.
    """
    d = tl.arange(0, WIDTH)
    p = P + base * WIDTH + (offset[:, None] * WIDTH + d[None, :])
    mask = ok[:, None] & (d < WIDTH)[None, :]
    # A float zero for floats: the interpreter cannot cast an integer zero.
    if P.dtype.element_ty == tl.uint8:
        x = tl.load(p, mask=mask, other=0)
    else:
        x = tl.load(p, mask=mask, other=0.0)
    return x


@triton.jit
def mla_step(C, R, S, table, page, t, end, hi, q, qr, factor, m, l, acc, BS: tl.constexpr, BN: tl.constexpr,
             PAGED: tl.constexpr, CODE: tl.constexpr, CT: tl.constexpr, ASM: tl.constexpr,
             NATIVE: tl.constexpr, DEFER: tl.constexpr, BESIDE: tl.constexpr):  # fmt: skip
    """One tile of latent, always masked: a second loop for the last tile alone costs registers.

    BESIDE: queries come as [BH, 512] and [BH, 64] (``variants_mla.mla_beside``).
    """
    base, offset = locate(table, page, t, tl.arange(0, BN), end, 1, t * 0, BS, PAGED, True)
    position = t + tl.arange(0, BN)
    ok = position < end
    rope = load_part(R, base, offset, ok, 64)
    rope = rope.to(tl.float32).to(CT)
    if BESIDE:
        st = tl.dot(qr, tl.trans(rope))
    else:
        st = tl.dot(rope, qr)
    y = unpack(load_part(C, base, offset, ok, 512), CODE, CT, False, ASM, NATIVE)[0]
    if CODE != 0:
        s = load_part(S, base, offset, ok, 4) * (GAIN if NATIVE else GAIN * 256.0)
        wide = tl.broadcast_to(tl.expand_dims(s.to(CT), 2), [BN, 4, 128])
        y = halves_apart(y * tl.reshape(wide, [BN, 512]))
    if BESIDE:
        st = tl.trans(tl.dot(q, tl.trans(y), st))
    else:
        st = tl.dot(y, q, st)
    visible = ok[:, None] & (position[:, None] < hi[None, :])
    p, m, l, alpha = softmax_step(st, factor, visible, m, l, DEFER, True, True)
    acc = tl.dot(tl.trans(y), p.to(CT), acc * alpha[None, :])
    return m, l, acc


@triton.jit(do_not_specialize=["table_stride", "splits", "HQ"])
def mla(Q, C, R, S, TABLE, LENGTHS, STARTS, OUT, LSE, PM, PL, PO, COUNT, scale, table_stride, splits, HQ,
        BS: tl.constexpr, BN: tl.constexpr, BH: tl.constexpr, PAGED: tl.constexpr, MODE: tl.constexpr,
        ONE: tl.constexpr, CODE: tl.constexpr, CT: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr,
        DEFER: tl.constexpr, BESIDE: tl.constexpr):  # fmt: skip
    """See ``launch_mla`` for shapes."""
    b = tl.program_id(1)
    block = tl.program_id(0)
    split = tl.program_id(2)
    # ONE: decode, one new token per sequence, and STARTS is not read.
    begin = b if ONE else tl.load(STARTS + b)
    tokens = (b * 0 + 1) if ONE else tl.load(STARTS + b + 1) - begin
    if block * BH < tokens * HQ:
        column = block * BH + tl.arange(0, BH)
        ok = column < tokens * HQ
        rows = begin * HQ + column
        length = tl.load(LENGTHS + b)
        hi = tl.where(ok, length - tokens + column // HQ + 1, 0)
        highest = length - tokens + tl.minimum((block * BH + BH - 1) // HQ, tokens - 1) + 1
        line = rows.to(tl.int64) * 576
        x = load_columns(Q, line, ok, 512)
        xr = load_columns(Q, line + 512, ok, 64)
        # fp8 latents carry GAIN: so must the other half of the score.
        gain: tl.constexpr = 1.0 if CODE == 0 else GAIN
        if CODE == 0:
            # bf16 has the range of any query: it is multiplied as it comes, and takes no registers.
            q = x.to(CT)
            qr = xr.to(CT)
            factor = tl.zeros([BH], tl.float32) + scale * LOG2E
        else:
            xf = x.to(tl.float32)
            xrf = xr.to(tl.float32)
            top = tl.maximum(tl.max(tl.abs(xf), 0), tl.max(tl.abs(xrf), 0))
            exponent = top.to(tl.int32, bitcast=True) & 0x7F800000
            power = tl.maximum(exponent.to(tl.float32, bitcast=True), 1e-30)
            q = queries_apart((xf / power[None, :]).to(CT))
            qr = (xrf / power[None, :] * gain).to(CT)
            factor = power * (scale * LOG2E / gain)
        if BESIDE:
            q = tl.trans(q)
            qr = tl.trans(qr)
        acc = tl.zeros([512, BH], tl.float32)
        m = tl.full([BH], -1e30, tl.float32)
        l = tl.zeros([BN, BH], tl.float32) if DEFER else tl.zeros([BH], tl.float32)
        share = tl.cdiv(tl.cdiv(highest, splits), BN) * BN
        start = split * share
        end = tl.minimum(start + share, highest)
        table = TABLE + b.to(tl.int64) * table_stride
        ahead = page_of(table, start, end, BS, PAGED)
        for t in range(start, end, BN):
            page = ahead
            ahead = page_of(table, t + BN, end, BS, PAGED)
            m, l, acc = mla_step(C, R, S, table, page, t, end, hi, q, qr, factor, m, l, acc, BS, BN, PAGED,
                                 CODE, CT, ASM, NATIVE, DEFER, BESIDE)  # fmt: skip
        if BH > 16:
            column = block * BH + tl.arange(0, BH)
            begin = anew(begin, ASM)
            ok = column < anew(tokens, ASM) * HQ
            rows = begin * HQ + column
        total = tl.sum(l, 0) if DEFER else l
        acc = together(acc, 512, CODE, True) / gain
        place = rows[None, :].to(tl.int64) * 512 + tl.arange(0, 512)[:, None]
        mask = (place >= 0) & ok[None, :]
        if MODE == 0:
            safe = tl.where(total > 0.0, total, 1.0)
            tl.store(OUT + place, (acc / safe[None, :]).to(OUT.dtype.element_ty), mask=mask)
            store_lse(LSE, rows, m, total, ok)
        else:
            part = rows * splits + split
            tl.store(PM + part, m, mask=ok)
            tl.store(PL + part, total, mask=ok)
            place = part[None, :].to(tl.int64) * 512 + tl.arange(0, 512)[:, None]
            tl.store(PO + place, acc, mask=mask)
            if MODE == 2:
                tl.debug_barrier()
                counter = COUNT + b * tl.num_programs(0) + block
                arrived = tl.atomic_add(counter, 1, sem="acq_rel")
                if arrived == splits - 1:
                    tl.debug_barrier()
                    for i in range(BH):
                        one = block * BH + i + tl.arange(0, 1)
                        combine(PM, PL, PO, OUT, LSE, begin * HQ + one, one < tokens * HQ, splits, 512, 0,
                                512)  # fmt: skip
                    tl.store(counter, 0)


@triton.jit(do_not_specialize=["tokens"])
def write_mla(XC, XR, SLOTS, C, R, S, tokens, TB: tl.constexpr, CODE: tl.constexpr):
    """Write latents [T, 512] and RoPE keys [T, 64] (16-bit, passed as int16 where they are copied).

    fp8: one fp32 scale per 128 elements, largest magnitude to 448. Grid (blocks of TB tokens).
    """
    token = tl.program_id(0) * TB + tl.arange(0, TB)
    there = token < tokens
    slot = tl.load(SLOTS + token, mask=there, other=-1)
    ok = there & (slot >= 0)
    source = token.to(tl.int64)
    copy_rows(XR, source * 64, R, slot * 64, ok, 64)
    if CODE == 0:
        copy_rows(XC, source * 512, C, slot * 512, ok, 512)
    else:
        d = tl.arange(0, 128)
        for i in tl.static_range(4):
            mask = ok[:, None] & (d < 128)[None, :]
            place = XC + source[:, None] * 512 + (i * 128 + d)[None, :]
            x = tl.load(place, mask=mask, other=0.0).to(tl.float32)
            scale = tl.maximum(tl.max(tl.abs(x), 1) * (1.0 / 448.0), 1e-12)
            code = float8_code(x * tl.math.div_rn(1.0, scale)[:, None], 3, -6, 448.0)
            tl.store(S + slot * 4 + i, scale, mask=ok)
            tl.store(C + slot[:, None] * 512 + (i * 128 + d)[None, :], code, mask=mask)
