"""Which shapes to time when only a hundred can be: spread them evenly, without looking at any time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvplan.latency.fit.solve import Array


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
    distance = np.sum((points - points[chosen[0]]) ** 2, axis=1)
    while len(chosen) < count:
        farthest = int(np.argmax(distance))
        chosen.append(farthest)
        distance = np.minimum(distance, np.sum((points - points[farthest]) ** 2, axis=1))
    return np.array(sorted(chosen), dtype=np.intp)
