"""Programs of equal length on the multiprocessors of a GPU: how long until the last has ended.

A multiprocessor holds some at once; a free place takes the next program. How fast each goes depends on how many stand
beside it, and all together are no faster than memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def makespan(
    programs: int,
    tiles: float,
    turn: Sequence[float],
    tile_bytes: float,
    bandwidth: float,
    multiprocessors: int = 132,
) -> float:
    """Cycles from the first program's beginning to the last one's end.

    Args:
        tiles: of one program; what it does before and after counts as tiles, too.
        turn: cycles of a tile where 1, 2, ... programs share a multiprocessor; as many as can.
        bandwidth: bytes in a cycle, of all multiprocessors together.
    """
    left = np.zeros((multiprocessors, len(turn)))
    pace = np.array([0.0, *(1.0 / cycles for cycles in turn)])
    waiting, now = programs, 0.0
    while True:
        for place in range(len(turn)):
            free = np.flatnonzero((left <= 1e-9).sum(1) > len(turn) - 1 - place)[:waiting]
            for m in free:
                left[m, np.flatnonzero(left[m] <= 1e-9)[0]] = tiles
            waiting -= len(free)
        held = (left > 1e-9).sum(1)
        if not held.any():
            return now
        asked = float((held * pace[held]).sum()) * tile_bytes
        rate = pace[held] * min(1.0, bandwidth / asked)
        with np.errstate(divide="ignore"):
            due = np.where(left > 1e-9, left, np.inf) / rate[:, None]
        step = float(np.nanmin(due))
        left = np.maximum(left - rate[:, None] * step, 0.0) * (left > 1e-9)
        now += step
