"""How many programs share one sequence's tokens.

Decode at small batch has fewer (sequence, head) pairs than the GPU has multiprocessors; splitting the tokens
fills it. Nothing here reads a length from the device: only shapes and an upper bound the caller knows.

The constants are in units of a tile, which one program alone takes about a microsecond for. They come from
machine code run on a model of a multiprocessor (``tests.kernels.sass``), not from a GPU.
"""

from __future__ import annotations

import functools

MOST = 128
STARTING = 2.0
"""What a program does before its first tile and after its last."""
RING = 5.0
"""All that the program of a residual ring does."""
UNEVEN = 8
"""Splits up to which programs may take more than one wave, where that fills the last one better."""
WORTH = 0.95
"""Share of the time that more splits must come down to: what they leave has to be stored and read again."""
COMBINED_AT_ONCE = 4096
"""Elements of partial outputs that a program combines without waiting for others between
(``gpu.reduce.combine``); and an eighth of it of outputs."""
ARRIVING, COMBINING, LOT = 0.5, 0.6, 0.45
"""Counting who has arrived; combining rows, and each eight splits of them."""
LAUNCHING, LOTS = 2.4, 0.9
"""A second launch, and all that it combines at once."""


@functools.lru_cache(maxsize=4096)
def choose_splits(
    *,
    programs: int,
    tokens: int,
    multiprocessors: int,
    per_multiprocessor: int,
    enough: int,
    smallest_share: int,
    window: int = 0,
    ring: bool,
) -> int:
    """Splits of the cached tokens.

    Args:
        programs: programs that exist without splitting (sequences x heads x blocks of heads).
        tokens: upper bound on a sequence's cached tokens.
        per_multiprocessor: programs that fit on one multiprocessor at once.
        enough: programs that keep one busy, or its share of memory: more are no faster.
        smallest_share: tokens a split has at least: a tile's, or more.
        window: sliding window, 0 for none: tokens outside it are never visited.
        ring: the cache has a residual ring, which takes a split of its own.

    Returns:
        1 .. 128. As many as all fit at once; where that leaves much of the last wave empty, more of them.
        No split has nothing to do.
    """
    visible = min(tokens, window) if window else tokens
    shares = max(1, -(-visible // smallest_share))
    most = max(1, min(MOST - ring, visible // smallest_share))
    slots = multiprocessors * per_multiprocessor
    splits = min(max(1, slots // max(programs, 1)), most)

    def time(splits: int) -> float:
        longest = -(-shares // splits) + STARTING
        short = min(1.0, RING / longest) if ring and splits > 1 else 0.0
        waves, rest = divmod(programs * (splits + short), slots)
        beside = [per_multiprocessor] * int(waves) + [rest / multiprocessors] * (rest > 0)
        return longest * sum(max(1.0, n / enough) for n in beside)

    if splits < most and splits < UNEVEN:
        others = range(splits + 1, min(UNEVEN, most) + 1)
        best = min(others, key=time, default=splits)
        if time(best) <= WORTH * time(splits):
            splits = best
    splits = -(-shares // -(-shares // splits))
    return splits + 1 if ring and splits > 1 else splits


def worth_fusing(splits: int, rows: int, width: int) -> bool:
    """Whether one program should combine ``rows`` outputs of ``width`` elements, rather than a launch.

    A launch has a program for every row, and for every 128 of its elements; the last program to arrive
    combines a few rows at a time.
    """
    padded = 1 << (width - 1).bit_length()
    piece = 128 if width % 128 == 0 else padded
    turns = -(-rows // max(1, COMBINED_AT_ONCE // 8 // padded))
    alone = ARRIVING + turns * (COMBINING + LOT * -(-splits // 8))
    launched = LAUNCHING + LOTS * -(-splits * piece // COMBINED_AT_ONCE)
    return splits > 1 and alone <= launched
