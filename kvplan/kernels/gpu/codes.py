"""Bits to floating point, and back: the innermost part of every kernel.

Narrow integer codes become fp16 by the exponent trick: OR-ing a code into the mantissa of a power of two
gives ``bias + code`` with no conversion instruction (LOP3/PRMT instead of I2F). The bias is either taken
off at once (``FOLD=False``, one exact fp16 subtraction) or, for keys, carried through the dot product and
removed with a rank-one correction (``FOLD=True``, cheaper).

On a GPU the trick is inline PTX on four packed bytes. Triton's interpreter has no inline assembly, so
``ASM`` 0 selects the same mathematics in plain operations, bit for bit.

The assembly is declared impure although it is not. Triton moves layout conversions in front of pure
element-wise operations, where they shuffle single bytes through shared memory (byte stores, 16-bit loads,
permutes); behind the unpacking they are 128-bit stores and matrix loads. For fp8 on Hopper that is 1.9
against 3.4 instructions an element. (``ASM`` 2 declares it as what it is: see ``variants.Target``.)
"""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
from __future__ import annotations

import triton
import triton.language as tl

FLOAT16, E4M3, E5M2, INT8, INT4, INT2, E2M1 = (tl.constexpr(i) for i in range(7))


@triton.jit
def _int8_asm(x, PURE: tl.constexpr):
    # Offset binary under the exponent of 1024: 1024 + (x + 128).
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 u;
        xor.b32 u, $2, 0x80808080;
        prmt.b32 $0, u, 0x64646464, 0x4140;
        prmt.b32 $1, u, 0x64646464, 0x4342;
        }""",
        "=r,=r,r",
        [x],
        dtype=tl.float16,
        is_pure=PURE,
        pack=4,
    )


@triton.jit
def _int4_asm(x, PURE: tl.constexpr):
    # Low nibble sits at mantissa bits 0-3 (1024 + n), high nibble at bits 4-7 under 64 (64 + n).
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 a, b;
        prmt.b32 a, $4, 0, 0x4140;
        prmt.b32 b, $4, 0, 0x4342;
        lop3.b32 $0, a, 0x000f000f, 0x64006400, 0xea;
        lop3.b32 $1, b, 0x000f000f, 0x64006400, 0xea;
        lop3.b32 $2, a, 0x00f000f0, 0x54005400, 0xea;
        lop3.b32 $3, b, 0x00f000f0, 0x54005400, 0xea;
        }""",
        "=r,=r,=r,=r,r",
        [x],
        dtype=(tl.float16, tl.float16),
        is_pure=PURE,
        pack=4,
    )


@triton.jit
def _int2_asm(x, PURE: tl.constexpr):
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 a, b;
        prmt.b32 a, $8, 0, 0x4140;
        prmt.b32 b, $8, 0, 0x4342;
        lop3.b32 $0, a, 0x00030003, 0x64006400, 0xea;
        lop3.b32 $1, b, 0x00030003, 0x64006400, 0xea;
        lop3.b32 $2, a, 0x000c000c, 0x5c005c00, 0xea;
        lop3.b32 $3, b, 0x000c000c, 0x5c005c00, 0xea;
        lop3.b32 $4, a, 0x00300030, 0x54005400, 0xea;
        lop3.b32 $5, b, 0x00300030, 0x54005400, 0xea;
        lop3.b32 $6, a, 0x00c000c0, 0x4c004c00, 0xea;
        lop3.b32 $7, b, 0x00c000c0, 0x4c004c00, 0xea;
        }""",
        "=r,=r,=r,=r,=r,=r,=r,=r,r",
        [x],
        dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
        is_pure=PURE,
        pack=4,
    )


@triton.jit
def _e5m2_asm(x, PURE: tl.constexpr):
    # e5m2 is the upper byte of fp16.
    return tl.inline_asm_elementwise(
        """{
        prmt.b32 $0, $2, 0, 0x1404;
        prmt.b32 $1, $2, 0, 0x3424;
        }""",
        "=r,=r,r",
        [x],
        dtype=tl.float16,
        is_pure=PURE,
        pack=4,
    )


@triton.jit
def _e4m3_asm(x, PURE: tl.constexpr):
    # Sign in place, exponent and mantissa one bit lower: value * 2^-8, subnormals included.
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 a, b, s, t;
        prmt.b32 a, $2, 0, 0x1404;
        prmt.b32 b, $2, 0, 0x3424;
        shr.b32 s, a, 1;
        lop3.b32 s, s, 0x3f803f80, 0, 0xc0;
        lop3.b32 $0, a, 0x80008000, s, 0xea;
        shr.b32 t, b, 1;
        lop3.b32 t, t, 0x3f803f80, 0, 0xc0;
        lop3.b32 $1, b, 0x80008000, t, 0xea;
        }""",
        "=r,=r,r",
        [x],
        dtype=tl.float16,
        is_pure=PURE,
        pack=4,
    )


@triton.jit
def _e4m3_native(x, PURE: tl.constexpr):
    return tl.inline_asm_elementwise(
        """{
        .reg .b16 a, b;
        mov.b32 {a, b}, $2;
        cvt.rn.f16x2.e4m3x2 $0, a;
        cvt.rn.f16x2.e4m3x2 $1, b;
        }""",
        "=r,=r,r",
        [x],
        dtype=tl.float16,
        is_pure=PURE,
        pack=4,
    )


@triton.jit
def _e2m1_asm(x, PURE: tl.constexpr):
    # Sign to bit 15, exponent and mantissa to bits 9-11: value * 2^-14.
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 a, b, s, t;
        prmt.b32 a, $4, 0, 0x4140;
        prmt.b32 b, $4, 0, 0x4342;
        shl.b32 s, a, 9;
        shl.b32 t, a, 12;
        lop3.b32 s, s, 0x0e000e00, 0, 0xc0;
        lop3.b32 $0, t, 0x80008000, s, 0xea;
        shl.b32 s, b, 9;
        shl.b32 t, b, 12;
        lop3.b32 s, s, 0x0e000e00, 0, 0xc0;
        lop3.b32 $1, t, 0x80008000, s, 0xea;
        shl.b32 s, a, 5;
        shl.b32 t, a, 8;
        lop3.b32 s, s, 0x0e000e00, 0, 0xc0;
        lop3.b32 $2, t, 0x80008000, s, 0xea;
        shl.b32 s, b, 5;
        shl.b32 t, b, 8;
        lop3.b32 s, s, 0x0e000e00, 0, 0xc0;
        lop3.b32 $3, t, 0x80008000, s, 0xea;
        }""",
        "=r,=r,=r,=r,r",
        [x],
        dtype=(tl.float16, tl.float16),
        is_pure=PURE,
        pack=4,
    )


@triton.jit
def _under(w, MASK: tl.constexpr, EXPONENT: tl.constexpr):
    """fp16 whose mantissa holds the masked bits of ``w`` under a power of two."""
    return ((w & MASK) | EXPONENT).to(tl.float16, bitcast=True)


@triton.constexpr_function
def bias_of(code, part):
    """What ``unpack`` adds to a code of this slice when the bias is folded."""
    if code == 3:
        return 1152.0
    if code == 4:
        return 1024.0 if part == 0 else 64.0
    if code == 5:
        return (1024.0, 256.0, 64.0, 16.0)[part]
    return 0.0


@triton.jit
def unpack(x, CODE: tl.constexpr, CT: tl.constexpr, FOLD: tl.constexpr, ASM: tl.constexpr,
           NATIVE: tl.constexpr):  # fmt: skip
    """Codes of a tile as floating point, one tensor per packed slice.

    Args:
        x: [rows, bytes] uint8, or the 16-bit tensor itself for FLOAT16.
        CT: the type the dot products are computed in.
        FOLD: leave the bias (``bias_of``) in.
        ASM: inline PTX: 0 none (the interpreter), 1 kept in its place, 2 free to be moved.
        NATIVE: the target converts e4m3 in hardware (sm_89 and later); otherwise the e4m3 result is
            ``value * 2^-8``.

    Returns:
        A tuple of 1, 2 or 4 tensors of type ``CT``.
    """
    if CODE == FLOAT16:
        y = (x.to(CT),)
    elif CODE == E4M3:
        if NATIVE and ASM:
            y = (_e4m3_native(x, ASM == 2).to(CT),)
        elif NATIVE:
            y = (x.to(tl.float8e4nv, bitcast=True).to(CT),)
        elif ASM:
            y = (_e4m3_asm(x, ASM == 2).to(CT),)
        else:
            w = x.to(tl.int16)
            y = ((((w & 0x80) << 8) | ((w & 0x7F) << 7)).to(tl.float16, bitcast=True).to(CT),)
    elif CODE == E5M2:
        if ASM:
            y = (_e5m2_asm(x, ASM == 2).to(CT),)
        else:
            y = ((x.to(tl.uint16) << 8).to(tl.float16, bitcast=True).to(CT),)
    elif CODE == INT8:
        if ASM:
            c = _int8_asm(x, ASM == 2)
        else:
            c = _under(x.to(tl.int16) ^ 0x80, 0xFF, 0x6400)
        if not FOLD:
            c = c - 1152.0
        y = (c.to(CT),)
    elif CODE == INT4:
        if ASM:
            c0, c1 = _int4_asm(x, ASM == 2)
        else:
            w = x.to(tl.int16)
            c0 = _under(w, 0xF, 0x6400)
            c1 = _under(w, 0xF0, 0x5400)
        if not FOLD:
            c0 = c0 - 1024.0
            c1 = c1 - 64.0
        y = (c0.to(CT), c1.to(CT))
    elif CODE == INT2:
        if ASM:
            c0, c1, c2, c3 = _int2_asm(x, ASM == 2)
        else:
            w = x.to(tl.int16)
            c0 = _under(w, 0x3, 0x6400)
            c1 = _under(w, 0xC, 0x5C00)
            c2 = _under(w, 0x30, 0x5400)
            c3 = _under(w, 0xC0, 0x4C00)
        if not FOLD:
            c0 = c0 - 1024.0
            c1 = c1 - 256.0
            c2 = c2 - 64.0
            c3 = c3 - 16.0
        y = (c0.to(CT), c1.to(CT), c2.to(CT), c3.to(CT))
    else:
        tl.static_assert(CODE == E2M1)
        if ASM:
            c0, c1 = _e2m1_asm(x, ASM == 2)
        else:
            w = x.to(tl.int16)
            c0 = (((w & 0x8) << 12) | ((w & 0x7) << 9)).to(tl.float16, bitcast=True)
            c1 = (((w & 0x80) << 8) | ((w & 0x70) << 5)).to(tl.float16, bitcast=True)
        y = (c0.to(CT), c1.to(CT))
    return y
