"""The scales and minima of a tile of cached tokens.

SCALING says what shares one (``formats.Scaling``), KIND how it is stored: 0 floating point, 1 e4m3 byte, 2
power-of-two byte (e8m0). Loops load what a tile's rows have (``row_scales``) one tile ahead: such loads are
too narrow for the compiler to move ahead, and a tile that waits for its own waits for memory.
"""

# Triton compiles a subset of Python without star expressions.
# ruff: noqa: RUF005
from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def pack_of(code):
    """Elements per byte."""
    return 4 if code == 5 else (2 if code in (4, 6) else 1)


@triton.constexpr_function
def elementwise(scaling, group, width, swap):
    """Whether stored scales are multiplied into elements.

    They have to be where they differ inside a slice. Otherwise they fold into scores and weights, which costs
    less than a multiplication by element where a tile has fewer columns than dimensions.
    """
    return scaling == 5 or (scaling == 4 and group < width) or (scaling in (3, 4) and not swap)


@triton.jit
def _load(P, index, ok, KIND: tl.constexpr, MASKED: tl.constexpr):
    if MASKED:
        # A float zero for floats: the interpreter cannot cast an integer zero.
        x = tl.load(P + index, mask=ok, other=0) if KIND != 0 else tl.load(P + index, mask=ok, other=0.0)
    else:
        x = tl.load(P + index)
    return x


@triton.jit
def number(x, KIND: tl.constexpr):
    """Stored scales as fp32."""
    if KIND == 1:
        w = x.to(tl.int16)
        s = (((w & 0x80) << 8) | ((w & 0x7F) << 7)).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    elif KIND == 2:
        s = (x.to(tl.int32) << 23).to(tl.float32, bitcast=True)
    else:
        s = x.to(tl.float32)
    return s


@triton.jit
def row_scales(S, M, base, offset, ok, D: tl.constexpr, CODE: tl.constexpr, SCALING: tl.constexpr,
               GROUP: tl.constexpr, KIND: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """What each row of a tile has of its own, as stored: (scales, minima).

    Two tuples: of one [BN] for a scale per token, of one a slice for groups ([BN], or [BN, groups] where a
    slice has several), empty where rows have none.
    """
    W: tl.constexpr = D // pack_of(CODE)
    scales = ()
    minima = ()
    if SCALING == 3 or SCALING == 4:
        for j in tl.static_range(1 if SCALING == 3 else pack_of(CODE)):
            if SCALING == 3:
                line = base + offset
                there = ok
            elif GROUP >= W:
                line = (base + offset) * (D // GROUP) + (j * W) // GROUP
                there = ok
            else:
                g = tl.arange(0, W // GROUP)
                line = (base + offset)[:, None] * (D // GROUP) + (j * (W // GROUP) + g)[None, :]
                there = ok[:, None] & (g >= 0)[None, :]
            scales = scales + (_load(S, line, there, KIND, MASKED),)
            if CODE == 4 or CODE == 5:
                minima = minima + (_load(M, line, there, KIND, MASKED),)
    return scales, minima


@triton.jit
def _over_slice(x, BN: tl.constexpr, W: tl.constexpr, SCALING: tl.constexpr, GROUP: tl.constexpr):
    """[BN] or [BN, W/GROUP] as what a slice [BN, W] can be multiplied by."""
    if SCALING == 4 and GROUP < W:
        wide = tl.broadcast_to(tl.expand_dims(x, 2), [BN, W // GROUP, GROUP])
        x = tl.reshape(wide, [BN, W])
    else:
        x = x[:, None]
    return x


@triton.jit
def _over_group(x, BN: tl.constexpr, WP: tl.constexpr, GROUP: tl.constexpr):
    """[BN/GROUP, WP] as [BN, WP], each row repeated for the tokens of its group."""
    tall = tl.broadcast_to(tl.expand_dims(x, 1), [BN // GROUP, GROUP, WP])
    return tl.reshape(tall, [BN, WP])


@triton.jit
def scale_elements(y, S, M, scales, minima, base, offset, ok, D: tl.constexpr, W: tl.constexpr,
                   WP: tl.constexpr, BN: tl.constexpr, CODE: tl.constexpr, SCALING: tl.constexpr,
                   GROUP: tl.constexpr, KIND: tl.constexpr, CT: tl.constexpr,
                   MASKED: tl.constexpr):  # fmt: skip
    """Multiply unpacked slices by their scales, and add the minima; those by channel are loaded here."""
    done = ()
    for j in tl.static_range(len(y)):
        if SCALING == 5:
            # A tile begins with a group and lies in one page: its groups follow each other.
            group = tl.arange(0, BN // GROUP)
            d = tl.arange(0, WP)
            line = (base // GROUP + group)[:, None] * D + (j * W + d)[None, :]
            some = tl.max(tl.reshape(ok.to(tl.int32), [BN // GROUP, GROUP]), 1) > 0
            there = some[:, None] & (d < W)[None, :]
            s = number(_load(S, line, there, KIND, MASKED or WP != W), KIND).to(CT)
            m = number(_load(M, line, there, KIND, MASKED or WP != W), KIND).to(CT)
            done = done + (y[j] * _over_group(s, BN, WP, GROUP) + _over_group(m, BN, WP, GROUP),)
        else:
            s = number(scales[0 if SCALING == 3 else j], KIND)
            s = (s * 128.0 if CODE == 6 else s).to(CT)
            x = y[j] * _over_slice(s, BN, W, SCALING, GROUP)
            if CODE == 4 or CODE == 5:
                m = number(minima[0 if SCALING == 3 else j], KIND).to(CT)
                x += _over_slice(m, BN, W, SCALING, GROUP)
            done = done + (x,)
    return done
