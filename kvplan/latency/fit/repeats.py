"""Shapes that were timed more than once: one measurement each, the median of its times.

A table may hold a shape several times: collectors went over it again, or write what other columns differ in.
Were its rows to stay apart, a shape would be fitted on and tested at once, and what is said of shapes that
were never timed would be how well times repeat.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kvplan.latency.fit.solve import Array

DISAGREE = 1.15
"""The longest time of a shape over its shortest, in the median, from which a table says that they differ. In
tables of one machine and version it is 1.01, and 1.05 of one shape in ten."""
FEWEST = 20
"""Shapes that were timed again, below which nothing is said of them."""


def once(shapes: Mapping[str, Array], seconds: Array) -> tuple[dict[str, Array], Array]:
    """Every shape once, where it stood first, with the median of its times.

    Args:
        shapes: columns of one length.
        seconds: of the same.
    """
    rows = np.column_stack(list(shapes.values()))
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    if first.size == seconds.size:
        return dict(shapes), seconds
    by_shape = np.lexsort((seconds, which.ravel()))
    parts = np.split(seconds[by_shape], np.cumsum(np.bincount(which.ravel()))[:-1])
    kept = np.argsort(first)
    return (
        {name: column[first[kept]] for name, column in shapes.items()},
        np.array([float(np.median(part)) for part in parts])[kept],
    )


def disagreement(shapes: Mapping[str, Array], seconds: Array) -> float | None:
    """The median of longest over shortest time of shapes that were timed again; None where they agree.

    Args:
        shapes, seconds: as for ``once``.
    """
    _, which, counts = np.unique(
        np.column_stack(list(shapes.values())), axis=0, return_inverse=True, return_counts=True
    )
    again = counts > 1
    if int(again.sum()) < FEWEST:
        return None
    logs = np.log(seconds)
    longest, shortest = np.full(counts.size, -np.inf), np.full(counts.size, np.inf)
    np.maximum.at(longest, which.ravel(), logs)
    np.minimum.at(shortest, which.ravel(), logs)
    found = float(np.exp(np.median((longest - shortest)[again])))
    return found if found >= DISAGREE else None
