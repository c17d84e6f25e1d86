"""Where a search should begin: the best of starts that are far apart.

Regressions around a point (``kvplan.scenario.search``) see how results follow the constants there. Of what is
far from usual that shows nothing: a front end thirty times as slow as most holds up a whole run, while one
twice as slow holds up nobody. So what may be far off is tried at strides first, one constant at a time and
the best of all of them, until no stride helps. What it finds is a start and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

STRIDES = (-1.5, 1.0, 2.0, 3.0)
"""Deviations of what is usual. What takes longer than it should is more than what takes less."""
LEAST_GAIN = 0.15
"""Share of the loss that a move must take away: less than that the regressions find, and better."""
MOVES = 3


def foothold(
    residual: Callable[[Array], Array],
    start: Array,
    usual: Array,
    low: Array,
    high: Array,
    *,
    scale: float,
    pull: Array,
) -> Array:
    """A point from which a search is more likely to find the bottom; ``start`` where nothing is much better.

    Args:
        residual: what should be zero, at a point; finite, always of one length.
        start: one constant each.
        usual: deviations before anything was measured; 0: this one is not tried elsewhere.
        low, high: bounds.
        scale, pull: as of the search.
    """
    import numpy as np

    def loss(point: Array) -> float:
        left = residual(point) / scale
        drawn = float(pull @ (point - start) ** 2) / (2.0 * scale**2)
        return float(np.sum(np.sqrt(1.0 + left**2) - 1.0)) + drawn

    point, least = start, loss(start)
    for _ in range(MOVES):
        tried = []
        for index in np.flatnonzero(usual):
            for stride in STRIDES:
                other = point.copy()
                other[index] = min(max(start[index] + stride * usual[index], low[index]), high[index])
                if other[index] != point[index]:
                    tried.append((loss(other), index, other))
        if not tried:
            break
        found, _, other = min(tried, key=lambda each: each[:2])
        if found > (1.0 - LEAST_GAIN) * least:
            break
        point, least = other, found
    return point
