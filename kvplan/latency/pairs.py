"""How many query-key pairs causal attention computes, and how many cache entries it reads."""

from __future__ import annotations


def chunk_pairs(before: int, new: int, limit: int | None = None) -> float:
    """Pairs of a chunk of ``new`` tokens after ``before`` others, each query seeing at most ``limit`` keys.

    The query at position p (from 1) sees ``min(p, limit)`` keys, itself included.
    """
    last = before + new
    if limit is None or last <= limit:
        return new * (before + (new + 1) / 2)
    if before >= limit:
        return float(new * limit)
    ramp = limit - before
    return ramp * (before + (ramp + 1) / 2) + (new - ramp) * limit


def chunk_span(before: int, new: int, limit: int | None = None) -> int:
    """Cache entries the chunk reads: all, or those inside the window of its first query."""
    return before + new if limit is None else min(before, limit) + new
