"""One tile of paged attention in the swapped form: keys and values stand on the matrix unit's M side.

``S^T[BN, BH] = K[BN, D] q^T[D, BH]`` and ``O^T[D, BH] += V^T[D, BN] P^T[BN, BH]``: BN cached tokens against
BH query columns. Decoding has few query heads per KV head, so putting them on N (8 wide) rather than on M
(16 or 64 wide) wastes no tensor-core rows and keeps the accumulators small. Prefill uses the same tile with
more columns.

Packed codes are never interleaved: slice j of a packed row holds elements ``j*W .. j*W+W-1``, so that q is
loaded as 1, 2 or 4 slices, the scores are a sum of sub-products and the output has as many accumulators.

A ``spec`` is the tuple (CODE, SCALING, GROUP, KIND) of one side; KIND says how a stored scale is read:
0 floating point, 1 e4m3 byte, 2 power-of-two byte (e8m0).
"""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: E741, RUF005
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.codes import bias_of, unpack

NEVER = tl.constexpr(-1e30)
"""Score of a masked position: finite, so that a row with nothing to see yields no NaN."""


@triton.constexpr_function
def pack_of(code):
    """Elements per byte."""
    return 4 if code == 5 else (2 if code in (4, 6) else 1)


@triton.constexpr_function
def elementwise(scaling, group, width):
    """Whether scales differ inside a slice, so that they cannot be folded into scores or weights."""
    return scaling == 5 or (scaling == 4 and group < width)


@triton.constexpr_function
def gain_of(code, by_element, native):
    """Power of two that ``unpack`` and the scale's own encoding left out of the values."""
    if code == 1 and not native:
        return 256.0
    if code == 6:
        return 128.0 if by_element else 16384.0
    return 1.0


@triton.jit
def load_rows(P, base, offset, rows_ok, W: tl.constexpr, WP: tl.constexpr, CODE: tl.constexpr,
              MASKED: tl.constexpr):  # fmt: skip
    """Rows ``base + offset`` of a [rows, W] tensor as a [BN, WP] tile; masked rows and padding read zero."""
    d = tl.arange(0, WP)
    p = P + base * W + (offset[:, None] * W + d[None, :])
    if MASKED and WP != W:
        mask = rows_ok[:, None] & (d < W)[None, :]
    elif MASKED:
        mask = rows_ok[:, None] & (d < WP)[None, :]
    else:
        mask = (offset >= 0)[:, None] & (d < W)[None, :]
    if MASKED or WP != W:
        # A float zero for floats: the interpreter cannot cast an integer zero.
        x = tl.load(p, mask=mask, other=0.0) if CODE == 0 else tl.load(p, mask=mask, other=0)
    else:
        x = tl.load(p)
    return x


@triton.jit
def load_scale(P, index, ok, KIND: tl.constexpr, MASKED: tl.constexpr):
    """Stored scales as fp32."""
    if MASKED:
        x = tl.load(P + index, mask=ok, other=0) if KIND != 0 else tl.load(P + index, mask=ok, other=0.0)
    else:
        x = tl.load(P + index)
    if KIND == 1:
        w = x.to(tl.int16)
        s = (((w & 0x80) << 8) | ((w & 0x7F) << 7)).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    elif KIND == 2:
        s = (x.to(tl.int32) << 23).to(tl.float32, bitcast=True)
    else:
        s = x.to(tl.float32)
    return s


@triton.jit
def _spread(x, BN: tl.constexpr, W: tl.constexpr, GROUP: tl.constexpr):
    """[BN, W/GROUP] to [BN, W], each value repeated GROUP times."""
    wide = tl.broadcast_to(tl.expand_dims(x, 2), [BN, W // GROUP, GROUP])
    return tl.reshape(wide, [BN, W])


@triton.jit
def scale_elements(y, S, M, base, offset, rows_ok, D: tl.constexpr, W: tl.constexpr, WP: tl.constexpr,
                   BN: tl.constexpr, CODE: tl.constexpr, SCALING: tl.constexpr, GROUP: tl.constexpr,
                   KIND: tl.constexpr, CT: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Multiply unpacked slices by scales that differ inside a slice, and add the minima."""
    done = ()
    for j in tl.static_range(len(y)):
        if SCALING == 5:
            d = tl.arange(0, WP)
            line = ((base + offset) // GROUP)[:, None] * D + (j * W + d)[None, :]
            ok = rows_ok[:, None] & (d < W)[None, :]
            s = load_scale(S, line, ok, KIND, MASKED or WP != W).to(CT)
            m = load_scale(M, line, ok, KIND, MASKED or WP != W).to(CT)
            done = done + (y[j] * s + m,)
        else:
            g = tl.arange(0, W // GROUP)
            line = (base + offset)[:, None] * (D // GROUP) + (j * (W // GROUP) + g)[None, :]
            ok = rows_ok[:, None] & (g >= 0)[None, :]
            s = load_scale(S, line, ok, KIND, MASKED)
            if CODE == 6:
                done = done + (y[j] * _spread((s * 128.0).to(CT), BN, W, GROUP),)
            else:
                m = load_scale(M, line, ok, KIND, MASKED)
                done = done + (y[j] * _spread(s.to(CT), BN, W, GROUP) + _spread(m.to(CT), BN, W, GROUP),)
    return done


@triton.jit
def scores(K, KS, KM, q, qsum, factor, base, offset, rows_ok, D: tl.constexpr, BN: tl.constexpr,
           CODE: tl.constexpr, SCALING: tl.constexpr, GROUP: tl.constexpr, KIND: tl.constexpr,
           CT: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr,
           MASKED: tl.constexpr):  # fmt: skip
    """S^T [BN, BH] in units of log2, of one tile of cached keys.

    Args:
        q: tuple of [WP, BH] slices; qsum: tuple of [BH], their sums (bias and minimum corrections).
        factor: [BH] fp32, everything that multiplies a whole column.
    """
    W: tl.constexpr = D // pack_of(CODE)
    WP: tl.constexpr = q[0].shape[0]
    EW: tl.constexpr = elementwise(SCALING, GROUP, W)
    kr = load_rows(K, base, offset, rows_ok, W, WP, CODE, MASKED)
    y = unpack(kr, CODE, CT, FOLD and not EW, ASM, NATIVE)
    if EW:
        y = scale_elements(
            y, KS, KM, base, offset, rows_ok, D, W, WP, BN, CODE, SCALING, GROUP, KIND, CT, MASKED
        )
    if SCALING == 4 and not EW:
        for j in tl.static_range(len(y)):
            s = load_scale(KS, (base + offset) * (D // GROUP) + (j * W) // GROUP, rows_ok, KIND, MASKED)
            part = tl.dot(y[j], q[j])
            if FOLD and bias_of(CODE, j) != 0.0:
                part = part - (qsum[j] * bias_of(CODE, j))[None, :]
            part = part * s[:, None]
            if CODE == 4 or CODE == 5:
                m = load_scale(KM, (base + offset) * (D // GROUP) + (j * W) // GROUP, rows_ok, KIND, MASKED)
                part += m[:, None] * qsum[j][None, :]
            if j == 0:
                st = part
            else:
                st += part
    else:
        st = tl.dot(y[0], q[0])
        for j in tl.static_range(1, len(y)):
            st = tl.dot(y[j], q[j], st)
        if FOLD and not EW and bias_of(CODE, 0) != 0.0:
            fold = qsum[0] * bias_of(CODE, 0)
            for j in tl.static_range(1, len(y)):
                fold += qsum[j] * bias_of(CODE, j)
            st = st - fold[None, :]
        if SCALING == 3:
            st = st * load_scale(KS, base + offset, rows_ok, KIND, MASKED)[:, None]
            if CODE == 4 or CODE == 5:
                whole = qsum[0]
                for j in tl.static_range(1, len(y)):
                    whole += qsum[j]
                st += load_scale(KM, base + offset, rows_ok, KIND, MASKED)[:, None] * whole[None, :]
    return st * factor[None, :]


@triton.jit
def _collect(x, DEFER: tl.constexpr):
    return x if DEFER else tl.sum(x, 0)


@triton.jit
def _decay(x, alpha, DEFER: tl.constexpr):
    return x * alpha[None, :] if DEFER else x * alpha


@triton.jit
def softmax_step(st, visible, m, l, DEFER: tl.constexpr, MASKED: tl.constexpr):
    """Online softmax over one tile: weights [BN, BH], the new running maximum, sum, and the decay."""
    if MASKED:
        st = tl.where(visible, st, NEVER)
    top = tl.maximum(m, tl.max(st, 0))
    alpha = tl.exp2(m - top)
    p = tl.exp2(st - top[None, :])
    if MASKED:
        p = tl.where(visible, p, 0.0)
    return p, top, _decay(l, alpha, DEFER) + _collect(p, DEFER), alpha


@triton.jit
def weigh(V, VS, VM, p, alpha, pmin, acc, base, offset, rows_ok, D: tl.constexpr, BN: tl.constexpr,
          CODE: tl.constexpr, SCALING: tl.constexpr, GROUP: tl.constexpr, KIND: tl.constexpr,
          CT: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr, DEFER: tl.constexpr,
          MASKED: tl.constexpr):  # fmt: skip
    """Add ``V^T P^T`` of one tile to the accumulators.

    Biases come off before the product here: accumulators run over all tokens and matrix units round each
    addition towards zero, which on a bias of a thousand would drift (by one percent of an int4 output after
    5000 tokens). ``pmin`` gathers weight times minimum, which multiplies no code.
    """
    W: tl.constexpr = D // pack_of(CODE)
    WP: tl.constexpr = acc[0].shape[0]
    EW: tl.constexpr = elementwise(SCALING, GROUP, W)
    MINIMA: tl.constexpr = (CODE == 4 or CODE == 5) and not EW
    vr = load_rows(V, base, offset, rows_ok, W, WP, CODE, MASKED)
    y = unpack(vr, CODE, CT, False, ASM, NATIVE)
    if EW:
        y = scale_elements(
            y, VS, VM, base, offset, rows_ok, D, W, WP, BN, CODE, SCALING, GROUP, KIND, CT, MASKED
        )
    out = ()
    mins = ()
    if SCALING == 4 and not EW:
        for j in tl.static_range(len(y)):
            line = (base + offset) * (D // GROUP) + (j * W) // GROUP
            pc = (p * load_scale(VS, line, rows_ok, KIND, MASKED)[:, None]).to(CT)
            out = out + (tl.dot(tl.trans(y[j]), pc, acc[j] * alpha[None, :]),)
            if MINIMA:
                pv = p * load_scale(VM, line, rows_ok, KIND, MASKED)[:, None]
                mins = mins + (_decay(pmin[j], alpha, DEFER) + _collect(pv, DEFER),)
    else:
        if SCALING == 3:
            pc = (p * load_scale(VS, base + offset, rows_ok, KIND, MASKED)[:, None]).to(CT)
        else:
            pc = p.to(CT)
        for j in tl.static_range(len(y)):
            out = out + (tl.dot(tl.trans(y[j]), pc, acc[j] * alpha[None, :]),)
        if MINIMA:
            pv = p * load_scale(VM, base + offset, rows_ok, KIND, MASKED)[:, None]
            mins = mins + (_decay(pmin[0], alpha, DEFER) + _collect(pv, DEFER),)
    return out, mins


@triton.jit
def decay_all(x, alpha, DEFER: tl.constexpr):
    """Decay every accumulator of a tuple (tiles that add nothing to it)."""
    out = ()
    for j in tl.static_range(len(x)):
        out = out + (_decay(x[j], alpha, DEFER),)
    return out
