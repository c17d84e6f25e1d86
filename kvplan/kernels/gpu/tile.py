"""One tile of paged attention, in both orientations (``sides``): BN cached tokens against BH query columns.

Swapped, ``S^T[BN, BH] = K[BN, D] q^T[D, BH]`` and ``O^T[D, BH] += V^T[D, BN] P^T[BN, BH]``: decoding has few
query heads per KV head, so putting them on N (8 wide) rather than on M (16 or 64 wide) wastes no tensor-core
rows and keeps the accumulators small. Otherwise ``S[BH, BN] = q K^T`` and ``O[BH, D] += P V``: a prompt has
hundreds of columns, every one of which uses what was unpacked, so scales are multiplied in there, by
element, rather than into each column's scores and weights.

Packed codes are never interleaved: slice j of a packed row holds elements ``j*W .. j*W+W-1``, so that the
scores are a sum of sub-products with slices of q, and the output has as many accumulators as slices.
"""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: E741, RUF005
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.codes import bias_of, unpack
from kvplan.kernels.gpu.orders import (
    FRAGMENT,
    all_apart,
    fragments,
    in_fragments,
    join_slices,
    joined,
    value_elementwise,
)
from kvplan.kernels.gpu.scales import elementwise, number, pack_of, scale_elements
from kvplan.kernels.gpu.sides import (
    add_keys_times_queries,
    add_weighted_values,
    by_other,
    by_query,
    keys_times_queries,
    other_axis,
)

NEVER = tl.constexpr(-1e30)
"""Score of a masked position: finite, so that a row with nothing to see yields no NaN."""

HEADROOM = tl.constexpr(8.0)
"""Weights go up to 2 to this power: beside a token that takes nearly all of the weight, those of the others
times the scales of small values would otherwise be less than fp16 can hold. Scales up to 255 have room."""


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
              MASKED: tl.constexpr, ACROSS: tl.constexpr = False, FIRST: tl.constexpr = 0):  # fmt: skip
    """Rows ``base + offset`` of a [rows, W] tensor as a [BN, WP] tile, from column FIRST; masked rows and
    padding read zero.

    ACROSS, for what is transposed next: the load itself is [WP, BN], the same bytes in the same order. Before
    3.8 Triton runs no load ahead that it first has to transpose, and every tile would wait for its values.
    """
    d = FIRST + tl.arange(0, WP)
    if ACROSS:
        p = P + base * W + (offset[None, :] * W + d[:, None])
        mask = rows_ok[None, :] & (d < W)[:, None] if MASKED else (offset >= 0)[None, :] & (d < W)[:, None]
    else:
        p = P + base * W + (offset[:, None] * W + d[None, :])
        if MASKED and WP > W:
            mask = rows_ok[:, None] & (d < W)[None, :]
        elif MASKED:
            mask = rows_ok[:, None] & (d >= 0)[None, :]
        else:
            mask = (offset >= 0)[:, None] & (d < W)[None, :]
    if MASKED or WP > W:
        # A float zero for floats: the interpreter cannot cast an integer zero.
        x = tl.load(p, mask=mask, other=0.0) if CODE == 0 else tl.load(p, mask=mask, other=0)
    else:
        x = tl.load(p)
    return tl.trans(x) if ACROSS else x


@triton.jit
def scores(K, KS, KM, ks, km, q, qsum, base, offset, rows_ok, D: tl.constexpr, BN: tl.constexpr,
           CODE: tl.constexpr, SCALING: tl.constexpr, GROUP: tl.constexpr, KIND: tl.constexpr,
           CT: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr,
           MASKED: tl.constexpr, SWAP: tl.constexpr):  # fmt: skip
    """S^T [BN, BH] (S [BH, BN]) of one tile of cached keys, to be multiplied by what a whole column has.

    Args:
        offset, rows_ok: of the rows, by ``orders.fragment_rows`` where keys are in fragments; scores are in
            the order of tokens all the same.
        ks, km: the rows' scales and minima as ``scales.row_scales`` loaded them.
        q: tuple of [WP, BH] ([BH, WP]) slices, in the keys' order (``orders.queries_like_keys``).
        qsum: tuple of [BH], their sums, for bias and minimum corrections.
    """
    W: tl.constexpr = D // pack_of(CODE)
    WP: tl.constexpr = triton.next_power_of_2(W)
    EW: tl.constexpr = elementwise(SCALING, GROUP, W, SWAP)
    FRAGMENTS: tl.constexpr = in_fragments(CODE, SCALING, GROUP, D, BN, SWAP)
    # Slices that a packed row unpacks to, each in this many pieces.
    PIECES: tl.constexpr = W // FRAGMENT if FRAGMENTS else 1
    y = ()
    if FRAGMENTS:
        unpacked = ()
        for i in tl.static_range(PIECES):
            kr = load_rows(K, base, offset, rows_ok, W, FRAGMENT, CODE, MASKED, False, i * FRAGMENT)
            unpacked = unpacked + (unpack(kr, CODE, CT, FOLD, ASM, NATIVE),)
        for j in tl.static_range(pack_of(CODE)):
            for i in tl.static_range(PIECES):
                y = y + (fragments(unpacked[i][j]),)
    else:
        kr = load_rows(K, base, offset, rows_ok, W, WP, CODE, MASKED)
        y = unpack(kr, CODE, CT, FOLD and not EW, ASM, NATIVE)
        if EW:
            y = scale_elements(
                y, KS, KM, ks, km, base, offset, rows_ok, D, W, WP, BN, CODE, SCALING, GROUP, KIND, CT, MASKED
            )
        y = all_apart(y, CODE, SWAP)
    if SCALING == 4 and not EW:
        for j in tl.static_range(len(y)):
            part = keys_times_queries(y[j], q[j], SWAP)
            if FOLD and bias_of(CODE, j // PIECES) != 0.0:
                part = part - by_query(qsum[j] * bias_of(CODE, j // PIECES), SWAP)
            part = part * by_other(number(ks[j // PIECES], KIND), SWAP)
            if CODE == 4 or CODE == 5:
                part += by_other(number(km[j // PIECES], KIND), SWAP) * by_query(qsum[j], SWAP)
            if j == 0:
                st = part
            else:
                st += part
    else:
        st = keys_times_queries(y[0], q[0], SWAP)
        for j in tl.static_range(1, len(y)):
            st = add_keys_times_queries(y[j], q[j], st, SWAP)
        if FOLD and not EW and bias_of(CODE, 0) != 0.0:
            fold = qsum[0] * bias_of(CODE, 0)
            for j in tl.static_range(1, len(y)):
                fold += qsum[j] * bias_of(CODE, j // PIECES)
            st = st - by_query(fold, SWAP)
        if SCALING == 3 and not EW:
            st = st * by_other(number(ks[0], KIND), SWAP)
            if CODE == 4 or CODE == 5:
                whole = qsum[0]
                for j in tl.static_range(1, len(y)):
                    whole += qsum[j]
                st += by_other(number(km[0], KIND), SWAP) * by_query(whole, SWAP)
    return st


@triton.jit
def _collect(x, DEFER: tl.constexpr, SWAP: tl.constexpr):
    return x if DEFER else tl.sum(x, other_axis(SWAP))


@triton.jit
def _decay(x, alpha, DEFER: tl.constexpr, SWAP: tl.constexpr):
    return x * by_query(alpha, SWAP) if DEFER else x * alpha


@triton.jit
def softmax_step(st, factor, visible, m, l, DEFER: tl.constexpr, MASKED: tl.constexpr, SWAP: tl.constexpr):
    """Online softmax over one tile: weights as the scores, the new running maximum, sum, and the decay.

    ``factor`` [BH], positive, makes scores logarithms to base 2. It is multiplied in with the subtraction of
    the maximum: one instruction. What is kept and subtracted is the maximum less ``HEADROOM``.
    """
    if MASKED:
        st = tl.where(visible, st, NEVER)
    top = tl.maximum(m, tl.max(st, other_axis(SWAP)) * factor - HEADROOM)
    alpha = tl.exp2(m - top)
    p = tl.exp2(st * by_query(factor, SWAP) - by_query(top, SWAP))
    if MASKED:
        p = tl.where(visible, p, 0.0)
    return p, top, _decay(l, alpha, DEFER, SWAP) + _collect(p, DEFER, SWAP), alpha


@triton.jit
def weigh(V, VS, VM, vs, vm, p, alpha, pmin, acc, base, offset, rows_ok, D: tl.constexpr, BN: tl.constexpr,
          CODE: tl.constexpr, SCALING: tl.constexpr, GROUP: tl.constexpr, KIND: tl.constexpr,
          CT: tl.constexpr, ASM: tl.constexpr, NATIVE: tl.constexpr, DEFER: tl.constexpr,
          MASKED: tl.constexpr, SWAP: tl.constexpr):  # fmt: skip
    """Add ``V^T P^T`` (``P V``) of one tile to the accumulators.

    Biases come off before the product here: accumulators run over all tokens and matrix units round each
    addition towards zero, which on a bias of a thousand would drift (by one percent of an int4 output after
    5000 tokens). ``pmin`` gathers weight times minimum, which multiplies no code.
    """
    W: tl.constexpr = D // pack_of(CODE)
    WP: tl.constexpr = triton.next_power_of_2(W)
    EW: tl.constexpr = value_elementwise(CODE, SCALING, GROUP, D, SWAP)
    MINIMA: tl.constexpr = (CODE == 4 or CODE == 5) and not EW
    # Packed codes lie along a row for the unpacking.
    vr = load_rows(V, base, offset, rows_ok, W, WP, CODE, MASKED, SWAP and CODE == 0)
    y = unpack(vr, CODE, CT, False, ASM, NATIVE)
    if EW:
        y = scale_elements(
            y, VS, VM, vs, vm, base, offset, rows_ok, D, W, WP, BN, CODE, SCALING, GROUP, KIND, CT, MASKED
        )
    y = (join_slices(y, ASM),) if joined(CODE, D, SWAP) else all_apart(y, CODE, SWAP)
    out = ()
    mins = ()
    if SCALING == 4 and not EW:
        for j in tl.static_range(len(y)):
            pc = (p * by_other(number(vs[j], KIND), SWAP)).to(CT)
            out = out + (add_weighted_values(y[j], pc, acc[j] * by_query(alpha, SWAP), SWAP),)
            if MINIMA:
                pv = p * by_other(number(vm[j], KIND), SWAP)
                mins = mins + (_decay(pmin[j], alpha, DEFER, SWAP) + _collect(pv, DEFER, SWAP),)
    else:
        if SCALING == 3 and not EW:
            pc = (p * by_other(number(vs[0], KIND), SWAP)).to(CT)
        else:
            pc = p.to(CT)
        for j in tl.static_range(len(y)):
            out = out + (add_weighted_values(y[j], pc, acc[j] * by_query(alpha, SWAP), SWAP),)
        if MINIMA:
            pv = p * by_other(number(vm[0], KIND), SWAP)
            mins = mins + (_decay(pmin[0], alpha, DEFER, SWAP) + _collect(pv, DEFER, SWAP),)
    return out, mins


@triton.jit
def decay_all(x, alpha, DEFER: tl.constexpr, SWAP: tl.constexpr):
    """Decay every accumulator of a tuple (tiles that add nothing to it)."""
    out = ()
    for j in tl.static_range(len(x)):
        out = out + (_decay(x[j], alpha, DEFER, SWAP),)
    return out
