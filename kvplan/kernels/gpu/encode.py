"""Floating point to codes: scale, round half to even, saturate, pack. Matches ``quantize`` bit for bit.

Compile with ``enable_fp_fusion=False``: a fused multiply-add before the rounding would round once where the
rule rounds twice.
"""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
# ruff: noqa: RUF005
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.tile import pack_of

ROUNDER = tl.constexpr(12582912.0)
"""1.5 * 2^23: adding and subtracting it rounds an fp32 below 2^22 to an integer, half to even."""


@triton.jit
def nearest(y):
    """Round half to even."""
    return (y + ROUNDER) - ROUNDER


@triton.jit
def float8_code(x, MANTISSA: tl.constexpr, LOWEST: tl.constexpr, LARGEST: tl.constexpr):
    """fp32 to an fp8 byte by integer arithmetic: needs no conversion instruction, on any target.

    Every fp8 number is an integer multiple r of 2^(e-MANTISSA), with e its exponent or the lowest one; codes
    count up through those multiples, so a carry into the next exponent needs no special case.
    """
    x = tl.minimum(tl.maximum(x, -LARGEST), LARGEST)
    bits = x.to(tl.int32, bitcast=True)
    e = tl.maximum(((bits >> 23) & 0xFF) - 127, LOWEST)
    unit = ((127 + MANTISSA - e) << 23).to(tl.float32, bitcast=True)
    r = nearest(tl.abs(x) * unit).to(tl.int32)
    code = ((e - LOWEST) << MANTISSA) + r
    return tl.where(code == 0, 0, code | tl.where(bits < 0, 0x80, 0)).to(tl.uint8)


@triton.jit
def e2m1_code(x):
    """fp32 to an e2m1 code: nearest, ties to the even code, saturating."""
    a = tl.abs(x)
    code = (a > 0.25).to(tl.int32) + (a >= 0.75).to(tl.int32) + (a > 1.25).to(tl.int32)
    code += (a >= 1.75).to(tl.int32) + (a > 2.5).to(tl.int32) + (a >= 3.5).to(tl.int32)
    code += (a > 5.0).to(tl.int32)
    return tl.where((x < 0) & (code > 0), code | 8, code).to(tl.uint8)


@triton.jit
def element_code(y, CODE: tl.constexpr):
    """Scaled values to codes below 2^bits, as uint8."""
    if CODE == 1:
        c = float8_code(y, 3, -6, 448.0)
    elif CODE == 2:
        c = float8_code(y, 2, -14, 57344.0)
    elif CODE == 3:
        c = nearest(tl.minimum(tl.maximum(y, -127.0), 127.0)).to(tl.int32).to(tl.uint8)
    elif CODE == 6:
        c = e2m1_code(y)
    else:
        TOP: tl.constexpr = 15.0 if CODE == 4 else 3.0
        c = nearest(tl.minimum(tl.maximum(y, 0.0), TOP)).to(tl.int32).to(tl.uint8)
    return c


@triton.jit
def make_scale(low, high, static, CODE: tl.constexpr, KIND: tl.constexpr):
    """Stored scale, stored minimum, and the fp32 reciprocal that codes are computed with."""
    minimum = tl.minimum(tl.maximum(low, -65504.0), 65504.0).to(tl.float16)
    if CODE == 4 or CODE == 5:
        STEP: tl.constexpr = 1.0 / 15.0 if CODE == 4 else 1.0 / 3.0
        wide = (high - low) * STEP
        scale = tl.minimum(tl.maximum(wide, 5.9604644775390625e-08), 65504.0).to(tl.float16)
        inverse = tl.math.div_rn(1.0, scale.to(tl.float32))
    elif KIND == 2:
        largest = tl.maximum(tl.abs(high), tl.abs(low))
        exponent = ((largest.to(tl.int32, bitcast=True) >> 23) & 0xFF) - 2
        exponent = tl.minimum(tl.maximum(exponent, 1), 135)
        scale = exponent.to(tl.uint8)
        inverse = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    elif KIND == 1:
        largest = tl.maximum(tl.abs(high), tl.abs(low))
        per_group = largest * (1.0 / 6.0) * tl.math.div_rn(1.0, static)
        scale = float8_code(tl.minimum(tl.maximum(per_group, 0.001953125), 448.0), 3, -6, 448.0)
        w = scale.to(tl.int16) << 7
        inverse = tl.math.div_rn(1.0, w.to(tl.float16, bitcast=True).to(tl.float32) * 256.0 * static)
    else:
        largest = tl.maximum(tl.abs(high), tl.abs(low)) * (1.0 / 127.0)
        scale = tl.minimum(tl.maximum(largest, 5.9604644775390625e-08), 65504.0).to(tl.float16)
        inverse = tl.math.div_rn(1.0, scale.to(tl.float32))
    return scale, minimum, inverse


@triton.jit
def pack_store(codes, C, rows, ok, W: tl.constexpr, WP: tl.constexpr, CODE: tl.constexpr):
    """Pack code slices into bytes and store them at rows of a [rows, W] tensor."""
    byte = codes[0]
    for j in tl.static_range(1, len(codes)):
        byte = byte | (codes[j] << (j * (2 if CODE == 5 else 4)))
    d = tl.arange(0, WP)
    tl.store(C + rows[:, None] * W + d[None, :], byte, mask=ok[:, None] & (d < W)[None, :])


@triton.jit
def store_tokens(x, C, S, M, T, rows, ok, h, D: tl.constexpr, CODE: tl.constexpr, SCALING: tl.constexpr,
                 GROUP: tl.constexpr, KIND: tl.constexpr):  # fmt: skip
    """Code token rows and store codes, scales and minima.

    Args:
        x: tuple of fp32 [R, WP] slices, zero where padded. rows: int64 [R] cache rows; ok: which to store.
    """
    W: tl.constexpr = D // pack_of(CODE)
    WP: tl.constexpr = x[0].shape[1]
    R: tl.constexpr = x[0].shape[0]
    codes = ()
    if SCALING == 1 or SCALING == 2:
        inverse = tl.math.div_rn(1.0, tl.load(T + (h if SCALING == 2 else 0)))
        for j in tl.static_range(len(x)):
            codes = codes + (element_code(x[j] * inverse, CODE),)
    elif SCALING == 4 and GROUP < W:
        static = 1.0
        if KIND == 1:
            static = tl.load(T)
        g = tl.arange(0, W // GROUP)
        for j in tl.static_range(len(x)):
            wide = tl.reshape(x[j], [R, W // GROUP, GROUP])
            scale, minimum, inverse = make_scale(tl.min(wide, 2), tl.max(wide, 2), static, CODE, KIND)
            line = rows[:, None] * (D // GROUP) + (j * (W // GROUP) + g)[None, :]
            mask = ok[:, None] & (g >= 0)[None, :]
            tl.store(S + line, scale, mask=mask)
            if CODE == 4 or CODE == 5:
                tl.store(M + line, minimum, mask=mask)
                wide = wide - minimum.to(tl.float32)[:, :, None]
            codes = codes + (element_code(tl.reshape(wide * inverse[:, :, None], [R, W]), CODE),)
    else:
        # One scale for one or more whole slices.
        G: tl.constexpr = D if SCALING == 3 else GROUP
        static = 1.0
        if KIND == 1:
            static = tl.load(T)
        real = (tl.arange(0, WP) < W)[None, :]
        for group in tl.static_range(D // G):
            low = tl.full([R], float("inf"), tl.float32)
            high = tl.full([R], float("-inf"), tl.float32)
            for j in tl.static_range(group * (G // W), (group + 1) * (G // W)):
                low = tl.minimum(low, tl.min(tl.where(real, x[j], float("inf")), 1))
                high = tl.maximum(high, tl.max(tl.where(real, x[j], float("-inf")), 1))
            scale, minimum, inverse = make_scale(low, high, static, CODE, KIND)
            tl.store(S + rows * (D // G) + group, scale, mask=ok)
            if CODE == 4 or CODE == 5:
                tl.store(M + rows * (D // G) + group, minimum, mask=ok)
            for j in tl.static_range(group * (G // W), (group + 1) * (G // W)):
                y = x[j]
                if CODE == 4 or CODE == 5:
                    y = y - minimum.to(tl.float32)[:, None]
                codes = codes + (element_code(y * inverse[:, None], CODE),)
    pack_store(codes, C, rows, ok, W, WP, CODE)


@triton.jit
def store_channels(x, C, S, M, rows, ok, D: tl.constexpr, CODE: tl.constexpr, GROUP: tl.constexpr):
    """Code one whole group of keys per channel (KIVI): one scale per element over the GROUP rows of ``x``."""
    W: tl.constexpr = D // pack_of(CODE)
    d = tl.arange(0, W)
    line = tl.max(rows, 0) // GROUP * D
    codes = ()
    for j in tl.static_range(len(x)):
        scale, minimum, inverse = make_scale(tl.min(x[j], 0), tl.max(x[j], 0), 1.0, CODE, 0)
        tl.store(S + line + j * W + d, scale)
        tl.store(M + line + j * W + d, minimum)
        codes = codes + (element_code((x[j] - minimum.to(tl.float32)[None, :]) * inverse[None, :], CODE),)
    pack_store(codes, C, rows, ok, W, W, CODE)
