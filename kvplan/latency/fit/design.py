"""Which shapes to time when only a hundred can be, without looking at any time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvplan.latency.fit.solve import Array

ROUNDS = 5
"""How often the typical shapes move to the middle of what is nearest to them."""


def spread(points: Array, count: int) -> npt.NDArray[np.intp]:
    """Indices of ``count`` rows of ``points``: half at the edges, half typical.

    Farthest points alone mark out the range, but nearly all of them lie at its edges, far from what is asked
    most. So the first half are those of ``maximin``; the others start there as well and move to the middle of
    the rows nearest to them (Lloyd's algorithm), the first half staying. The choice depends on nothing but
    the shapes. All rows when there are no more than ``count``.
    """
    if points.shape[0] <= count:
        return np.arange(points.shape[0])
    edges = maximin(points, count // 2)
    begin = np.setdiff1d(maximin(points, count), edges)
    centres = points[np.concatenate([edges, begin])]
    for _ in range(ROUNDS):
        nearest = np.argmin(_squares(points, centres), axis=1)
        for index in range(edges.size, count):
            if np.any(nearest == index):
                centres[index] = points[nearest == index].mean(axis=0)
    square = _squares(points, centres)
    square[edges] = np.inf
    chosen = list(edges)
    for index in range(edges.size, count):
        row = int(np.argmin(square[:, index]))
        square[row] = np.inf
        chosen.append(row)
    return np.array(sorted(chosen), dtype=np.intp)


def maximin(points: Array, count: int) -> npt.NDArray[np.intp]:
    """Indices of ``count`` rows of ``points``, each as far as can be from those chosen before it.

    Farthest-point selection (Gonzalez 1985), starting from the row nearest the middle of the range; ties
    go to the lower index, so that the choice depends on nothing but the shapes. All rows when there are no
    more than ``count``.
    """
    rows = points.shape[0]
    if rows <= count:
        return np.arange(rows)
    middle = np.median(points, axis=0)
    chosen = [int(np.argmin(np.sum((points - middle) ** 2, axis=1)))]
    distance = np.full(rows, np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.sum((points - points[chosen[-1]]) ** 2, axis=1))
        distance[chosen[-1]] = -1.0  # repeated measurements lie as near, and are rows of their own
        chosen.append(int(np.argmax(distance)))
    return np.array(sorted(chosen), dtype=np.intp)


def _squares(points: Array, centres: Array) -> Array:
    """Squared distance of each row from each centre."""
    ours, theirs = np.sum(points**2, axis=1)[:, None], np.sum(centres**2, axis=1)[None, :]
    return np.asarray(ours + theirs - 2.0 * (points @ centres.T), dtype=np.float64)
