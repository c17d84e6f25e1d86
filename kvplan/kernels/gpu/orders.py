"""In which order unpacked elements stand where tokens are the rows of a tile (``sides``).

A dot product does not ask in which order its terms are added, so keys and queries may both stand in another;
an output's elements can be put back in theirs when all tiles are done. What a thread loaded in one piece, 16
bytes of one row, then need not be dealt out to others through shared memory, whose bandwidth the narrow
formats would otherwise use up before that of the GPU's memory. None of these orders moves anything: they name
registers.
"""

# Triton compiles a subset of Python without star expressions.
# ruff: noqa: RUF005
from __future__ import annotations

import triton
import triton.language as tl

from kvplan.kernels.gpu.scales import elementwise, pack_of

FRAGMENT = tl.constexpr(64)
"""Bytes of a row that four lanes load, and eight rows that a warp loads of them at once."""


@triton.constexpr_function
def in_fragments(code, scaling, group, head_dim, tokens, swap):
    """Whether unpacked keys already stand in the registers where the matrix unit takes them (``fragments``).

    Not where elements are multiplied by scales first, which are loaded in the elements' own order.
    """
    width = head_dim // pack_of(code)
    whole = width % FRAGMENT.value == 0 and tokens % 64 == 0
    return swap and code != 0 and whole and not elementwise(scaling, group, width, swap)


@triton.constexpr_function
def key_slice(code, scaling, group, head_dim, tokens, swap):
    """Elements in a slice of the keys and queries."""
    if in_fragments(code, scaling, group, head_dim, tokens, swap):
        return FRAGMENT.value
    return head_dim // pack_of(code)


@triton.jit
def fragment_rows(BN: tl.constexpr):
    """Which token of a tile each row of keys is loaded from, for ``fragments``.

    A warp loads rows 8 w to 8 w + 7 and those 32 further, and multiplies rows 16 w to 16 w + 15.
    """
    n = tl.arange(0, BN)
    return n // 64 * 64 + n % 32 // 8 * 16 + n % 64 // 32 * 8 + n % 8


@triton.jit
def fragments(y):
    """Unpacked rows [BN, FRAGMENT] that were loaded by ``fragment_rows``, in the order of tokens.

    Of a row, lane q holds elements 16 q to 16 q + 15; step s of the product takes from it the four that begin
    at 4 s, as its terms 2 q, 2 q + 1, 2 q + 8 and 2 q + 9.
    """
    BN: tl.constexpr = y.shape[0]
    y = tl.reshape(y, [BN // 64, 2, 4, 8, 4, 4, 2, 2])
    return tl.reshape(tl.permute(y, (0, 2, 1, 3, 5, 6, 4, 7)), [BN, FRAGMENT])


@triton.constexpr_function
def halved(code, width, swap):
    """Whether slices of unpacked rows have the halves of every sixteen elements apart (``halves_apart``).

    Where eight threads load a row or part of it, that is. For a prompt's tiles the compiler finds no layout
    in which it costs nothing.
    """
    return swap and code != 0 and width >= 128


@triton.jit
def halves_apart(y):
    """Unpacked codes [BN, WP] with the first eights of all sixteens before the second ones.

    A thread unpacks sixteen bytes to two vectors of eight numbers of a slice. Beside each other in shared
    memory they would meet those of the next threads in the same banks.
    """
    BN: tl.constexpr = y.shape[0]
    WP: tl.constexpr = y.shape[1]
    return tl.reshape(tl.permute(tl.reshape(y, [BN, WP // 16, 2, 8]), (0, 2, 1, 3)), [BN, WP])


@triton.jit
def all_apart(slices, CODE: tl.constexpr, SWAP: tl.constexpr):
    """``halves_apart`` for a tuple of slices, where they are ``halved``."""
    if halved(CODE, slices[0].shape[1], SWAP):
        done = ()
        for j in tl.static_range(len(slices)):
            done = done + (halves_apart(slices[j]),)
    else:
        done = slices
    return done


@triton.constexpr_function
def joined(code, head_dim, swap):
    """Whether slices of unpacked values are one tile (``join_slices``): those of fewer than 64 elements.

    A product by four warps, sixteen rows each, would do every row of theirs twice.
    """
    width = head_dim // pack_of(code)
    return swap and pack_of(code) > 1 and width in (16, 32)


@triton.constexpr_function
def value_elementwise(code, scaling, group, head_dim, swap):
    """``scales.elementwise`` for values: slices that are one tile have no weights, and so no scale, each."""
    apart = elementwise(scaling, group, head_dim // pack_of(code), swap)
    return apart or (scaling == 4 and joined(code, head_dim, swap))


@triton.jit
def join_slices(y, ASM: tl.constexpr):
    """Two or four slices [BN, W] of 16-bit numbers as one tile [BN, D].

    Of a row, what stands in each slice's first eights of all sixteens comes before the second ones, as in
    ``halves_apart``; of those the same sixteen of each slice lie together.
    """
    BN: tl.constexpr = y[0].shape[0]
    W: tl.constexpr = y[0].shape[1]
    if len(y) == 4:
        x = tl.join(tl.join(y[0], y[1]), tl.join(y[2], y[3]))
        x = tl.permute(tl.reshape(x, [BN, W // 16, 2, 8, 2, 2]), (0, 2, 1, 5, 4, 3))
    else:
        x = tl.permute(tl.reshape(tl.join(y[0], y[1]), [BN, W // 16, 2, 8, 2]), (0, 2, 1, 4, 3))
    x = tl.reshape(x, [BN, len(y) * W])
    if ASM:
        # Behind a join Triton 3.6 takes 16-bit numbers for 8-bit ones and lays them out so that loads for the
        # matrix unit meet in the same banks. It does not look behind assembly; a move costs nothing.
        x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=x.dtype, is_pure=ASM == 2, pack=2)
    return x


@triton.jit
def part_slices(o, PACK: tl.constexpr):
    """Outputs [D, BH] of values that were joined, in the order of elements."""
    D: tl.constexpr = o.shape[0]
    BH: tl.constexpr = o.shape[1]
    x = tl.permute(tl.reshape(o, [2, D // PACK // 16, PACK, 8, BH]), (2, 1, 0, 3, 4))
    return tl.reshape(x, [D, BH])


@triton.jit
def queries_apart(x):
    """Queries [WP, BH] in the order of ``halves_apart``."""
    WP: tl.constexpr = x.shape[0]
    BH: tl.constexpr = x.shape[1]
    return tl.reshape(tl.permute(tl.reshape(x, [WP // 16, 2, 8, BH]), (1, 0, 2, 3)), [WP, BH])


@triton.jit
def together(o, D: tl.constexpr, CODE: tl.constexpr, SWAP: tl.constexpr):
    """Outputs [WP, BH] of values that were joined, or had their halves apart, in the order of elements."""
    if joined(CODE, D, SWAP):
        o = part_slices(o, pack_of(CODE))
    elif halved(CODE, o.shape[0], SWAP):
        WP: tl.constexpr = o.shape[0]
        BH: tl.constexpr = o.shape[1]
        o = tl.reshape(tl.permute(tl.reshape(o, [2, WP // 16, 8, BH]), (1, 0, 2, 3)), [WP, BH])
    return o


@triton.jit
def queries_like_keys(x, CODE: tl.constexpr, FRAGMENTS: tl.constexpr, SWAP: tl.constexpr):
    """A slice of queries [WP, BH] ([BH, WP]) in the order of the keys' elements."""
    if FRAGMENTS:
        BH: tl.constexpr = x.shape[1]
        x = tl.reshape(tl.permute(tl.reshape(x, [4, 4, 2, 2, BH]), (1, 2, 0, 3, 4)), [FRAGMENT, BH])
    elif halved(CODE, x.shape[0], SWAP):
        x = queries_apart(x)
    return x
