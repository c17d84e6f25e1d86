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
with a local scale (Lei et al. 2018), its level half a standard error higher, as so few scores decide it.
A dozen of a hundred scores lie beyond that level, and one of them alone, as an order statistic, is noise;
the quantile weighs all by how likely each is to be it (Harrell and Davis 1982).
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
HIGHEST = 0.95
"""The level asked of a handful of scores: beyond it they say nothing."""
STEPS = 4_000
"""Of the integral over the beta density."""


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
    level = COVERAGE + 0.5 * float(np.sqrt(COVERAGE * (1.0 - COVERAGE) / count))
    return Band(max(_quantile(ratios, level), 1e-6), scores)


def _quantile(values: Array, level: float) -> float:
    """Harrell and Davis' quantile of sorted values: their mean, weighted by the beta density of its rank.

    The rank is ``1 - v^8`` in equal steps of v, for with few values the density has a pole at rank 1.
    """
    level = min(level, HIGHEST)
    v = (np.arange(STEPS) + 0.5) / STEPS
    above, below = (values.size + 1) * level, (values.size + 1) * (1.0 - level)
    log = (above - 1.0) * np.log1p(-(v**8)) + (8.0 * below - 1.0) * np.log(v)
    rank = np.minimum(((1.0 - v**8) * values.size).astype(np.intp), values.size - 1)
    return float(np.average(values[rank], weights=np.exp(log - log.max())))


def _local(weights: Array, scores: Array) -> Array:
    """Weighted mean of the scores nearby, pulled to the mean of all."""
    return np.asarray(
        (weights @ scores + PRIOR * float(scores.mean())) / (weights.sum(axis=1) + PRIOR), dtype=np.float64
    )
