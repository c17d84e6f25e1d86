"""How wide a kernel's band is at a shape: cross-validated errors, by neighbourhood and by distance.

::

    score_i  = |e_i| / sqrt(d_i)                       of every fitted shape, when it was left out
    local(x) = (sum_i w_i score_i + C mean) / (sum_i w_i + C)      w_i: correlation of x and shape i
    width(x) = factor * local(x) * sqrt(d(x))

``e`` is the log of measured over predicted and ``d`` the deviation that the residual's process expects. Both
say part of the truth. Left-out shapes of a spread-out design lie farther from their neighbours than others
do, so the process, which grows with that distance, explains too much of their errors, and a constant width
too little: its square root is between. What remains differs from region to region of the shapes (another
kernel variant, another number of waves), which the weighted mean of scores nearby follows. ``factor`` is the
quantile of ``score_i / local_i``, with shape i left out of its own neighbourhood: split conformal prediction
with a local scale (Lei et al. 2018), its level three quarters of a standard error higher, as so few scores
decide it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvplan.latency.fit.residual import Residual
from kvplan.latency.fit.solve import Array

COVERAGE = 0.9
"""What every band aims to cover."""
PRIOR = 3.0
"""``C``: how many neighbours the mean of all counts for."""


@dataclass(frozen=True, slots=True)
class Band:
    """The width of a band.

    Args:
        factor: see the module.
        scores: of the residual's centres; empty where too few shapes were fitted to tell regions apart: the
            width is then ``factor`` times the process's deviation.
    """

    factor: float
    scores: Array

    def width(self, residual: Residual, points: Array, deviation: Array) -> Array:
        """Half width of the band in log time at ``points`` where the process expects ``deviation``."""
        return self.factor * self.unit(residual, points, deviation)

    def unit(self, residual: Residual, points: Array, deviation: Array) -> Array:
        """The width for a factor of 1."""
        if not self.scores.size:
            return deviation
        return _local(residual.correlation(points), self.scores) * np.sqrt(deviation)

    def wider(self, factor: float) -> Band:
        """The same band with another factor."""
        return Band(factor, self.scores)


def fit_band(residual: Residual, errors: Array, deviations: Array) -> Band:
    """The band of a fit whose shapes, the residual's centres, had these errors when left out."""
    scores = np.abs(errors) / np.sqrt(deviations)
    weights = residual.correlation(residual.centres)
    np.fill_diagonal(weights, 0.0)
    ratios = np.sort(scores / np.maximum(_local(weights, scores), 1e-12))
    count = scores.size
    level = COVERAGE + 0.75 * np.sqrt(COVERAGE * (1.0 - COVERAGE) / count)
    rank = min(int(np.ceil((count + 1) * level)), count)
    return Band(max(float(ratios[rank - 1]), 1e-6), scores)


def _local(weights: Array, scores: Array) -> Array:
    """Weighted mean of the scores nearby, pulled to the mean of all."""
    return np.asarray(
        (weights @ scores + PRIOR * float(scores.mean())) / (weights.sum(axis=1) + PRIOR), dtype=np.float64
    )
