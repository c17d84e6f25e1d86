"""Which side of the matrix unit cached tokens stand on.

``SWAP``: tokens, or dimensions, are the rows of a tile and query columns its columns. Decode and a few
tokens, with 8 or 16 query columns to a program: on the unit's N side they waste no rows.
Otherwise queries are the rows: for a prompt's hundreds of columns, whose weights then stay in registers
between the two products.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def by_query(x, SWAP: tl.constexpr):
    """A value for each query column, to be broadcast over a tile."""
    return x[None, :] if SWAP else x[:, None]


@triton.jit
def by_other(x, SWAP: tl.constexpr):
    """A value for each cached token, or dimension, to be broadcast over a tile."""
    return x[:, None] if SWAP else x[None, :]


@triton.constexpr_function
def other_axis(swap):
    """The axis of a tile that is not the queries'."""
    return 0 if swap else 1


@triton.jit
def tile_zeros(OTHER: tl.constexpr, QUERIES: tl.constexpr, SWAP: tl.constexpr):
    """An fp32 tile of zeros."""
    if SWAP:
        x = tl.zeros([OTHER, QUERIES], tl.float32)
    else:
        x = tl.zeros([QUERIES, OTHER], tl.float32)
    return x


@triton.jit
def keys_times_queries(k, q, SWAP: tl.constexpr):
    """Scores of keys [BN, W] and queries ([W, BH], or [BH, W]) in this orientation."""
    return tl.dot(k, q) if SWAP else tl.dot(q, tl.trans(k))


@triton.jit
def add_keys_times_queries(k, q, scores, SWAP: tl.constexpr):
    """The same, added to scores."""
    return tl.dot(k, q, scores) if SWAP else tl.dot(q, tl.trans(k), scores)


@triton.jit
def add_weighted_values(v, p, acc, SWAP: tl.constexpr):
    """Values [BN, W] times weights ([BN, BH], or [BH, BN]), added to outputs ([W, BH], or [BH, W])."""
    return tl.dot(tl.trans(v), p, acc) if SWAP else tl.dot(p, v, acc)
