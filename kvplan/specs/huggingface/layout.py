"""A list of block names, one per layer, as few repeated segments as a simple search finds."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.specs.model import Segment

LONGEST_PERIOD = 16


def segments(names: Sequence[str]) -> tuple[Segment, ...]:
    """Greedy run-length coding with periods: at each place the period that covers most layers.

    ``segments(("a", "b", "b", "a", "b", "b", "c"))`` is two segments: 2 x (a, b, b) and 1 x (c).
    """
    found: list[tuple[int, tuple[str, ...]]] = []
    start = 0
    while start < len(names):
        best = (1, 1)  # repeat, period
        for period in range(1, LONGEST_PERIOD + 1):
            row = tuple(names[start : start + period])
            repeat = 1
            while tuple(names[start + repeat * period : start + (repeat + 1) * period]) == row:
                repeat += 1
            covered, best_covered = repeat * period, best[0] * best[1]
            if repeat > 1 and (covered > best_covered or best == (1, 1)):
                best = (repeat, period)
        repeat, period = best
        row = tuple(names[start : start + period])
        if repeat == 1 and found and found[-1][0] == 1:
            found[-1] = (1, (*found[-1][1], *row))
        else:
            found.append((repeat, row))
        start += repeat * period
    return tuple(Segment.model_construct(repeat=repeat, blocks=row) for repeat, row in found)
