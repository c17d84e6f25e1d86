"""How many programs share one sequence's tokens.

Decode at small batch has fewer (sequence, head) pairs than the GPU has multiprocessors; splitting the tokens
fills it. Nothing here reads a length from the device: only shapes and an upper bound the caller knows.
"""

from __future__ import annotations

SMALLEST_SHARE = 256
"""Tokens below which another split costs more in reduction than it saves."""
MOST = 128
FUSED_BYTES = 96 << 10
"""Partial outputs that the last program to arrive combines as fast as a second launch would."""


def choose_splits(
    *,
    programs: int,
    tokens: int,
    multiprocessors: int,
    per_multiprocessor: int = 3,
    smallest_share: int = SMALLEST_SHARE,
    window: int = 0,
    ring: bool,
) -> int:
    """Splits of the cached tokens.

    Args:
        programs: programs that exist without splitting (sequences x heads x blocks of heads).
        tokens: upper bound on a sequence's cached tokens.
        per_multiprocessor: programs that fit on one multiprocessor at once (three of 128 threads with up to
            168 registers).
        smallest_share: tokens a split has at least.
        window: sliding window, 0 for none: tokens outside it are never visited.
        ring: the cache has a residual ring, which takes a split of its own.

    Returns:
        1 .. 128. The count fills whole waves: it is the largest that needs no more waves than the GPU has
        slots.
    """
    visible = min(tokens, window) if window else tokens
    most = max(1, min(MOST, visible // smallest_share))
    slots = multiprocessors * per_multiprocessor
    wanted = max(1, slots // max(programs, 1))
    splits = min(wanted, most)
    return min(splits + 1, MOST) if ring and splits > 1 else splits


def worth_fusing(splits: int, rows: int, width: int) -> bool:
    """Whether one program should combine ``rows`` outputs of ``width`` elements, rather than a launch."""
    return splits > 1 and splits * rows * width * 4 <= FUSED_BYTES
