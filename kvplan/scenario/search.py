"""Fitting constants of something that jitters: regressions over points all around, closing in.

A simulation decides in whole requests, so what it gives jumps when a constant moves a little; differences
between two neighbouring points then show the jumps and not the slope. Here slopes are regressions over a few
dozen points spread around the present one. The next point is the best of that linear picture under a robust
loss, no farther away than the points were; then the spread shrinks. The last regression also tells the
uncertainty: how much the results follow the constants, against how far they are from the target and how much
they jitter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvplan.latency.normals import design

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

SPREADS = (1.0, 0.75, 0.55, 0.4, 0.3)
"""Shares of the widths over which each regression is made, one after the other."""
POINTS_PER_DIMENSION = 5
REACH = 1.6
"""The next point lies within this many deviations of the points that were tried."""
_NEWTON = 30


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search.

    Attributes:
        point: where the residual is least.
        covariance: of the point, for independent residuals.
        noise: root mean square of the residual there, jitter included.
        slopes: of the residual there, by point.
    """

    point: Array
    covariance: Array
    noise: float
    slopes: Array


def search(
    residual: Callable[[Array], Array],
    start: Array,
    widths: Array,
    low: Array,
    high: Array,
    *,
    scale: float,
    pull: Array | None = None,
    home: Array | None = None,
    spreads: Sequence[float] = SPREADS,
    tell: Callable[[int, float], None] = lambda round_, misfit: None,
) -> Found:
    """The point with the least robust residual; the same for the same arguments.

    Args:
        residual: what should be zero, at a point; finite, always of one length.
        start, widths: where to begin and how far around to look first.
        low, high: bounds of the search.
        scale: residual from which it counts as an outlier.
        pull: how strongly each constant is drawn to ``home``, as by one more residual each, of the square
            root of this for every unit; decides where the residual does not. Not part of what is found.
        home: ``start`` unless said.
        spreads: see ``SPREADS``.
        tell: told after each round its number (from 1) and the root mean square of the smoothed residual.
    """
    import numpy as np

    dims = start.size
    pull = np.zeros(dims) if pull is None else pull
    home = start if home is None else home
    point = np.clip(start, low, high)
    count = max(POINTS_PER_DIMENSION * dims, 8)
    slopes, noise = np.zeros((1, dims)), 0.0
    for index, share in enumerate(spreads):
        spread = np.array(design(count, dims, f"search/{index}")) * (share * widths)
        points = np.clip(np.vstack([point, point + spread]), low, high)
        found = np.array([residual(each) for each in points])
        moves = np.column_stack([np.ones(len(points)), points - point])
        fitted, *_ = np.linalg.lstsq(moves, found, rcond=None)
        smooth, slopes = fitted[0], fitted[1:].T
        jitter = float(np.sqrt(np.mean((found - moves @ fitted) ** 2)))
        reach = REACH * share * widths
        step = robust_step(
            smooth, slopes, np.maximum(-reach, low - point), np.minimum(reach, high - point), scale,
            pull, point - home,
        )  # fmt: skip
        point = np.clip(point + step, low, high)
        left = smooth + slopes @ step
        noise = float(np.sqrt(np.mean(left**2) + jitter**2))
        tell(index + 1, float(np.sqrt(np.mean(left**2))))
    information = slopes.T @ slopes + 1e-12 * np.eye(dims)
    return Found(point, np.asarray(np.linalg.inv(information), dtype=np.float64), noise, slopes)


def robust_step(
    smooth: Array, slopes: Array, least: Array, most: Array, scale: float, pull: Array, away: Array
) -> Array:
    """The move within bounds that makes ``smooth + slopes @ move`` least under a soft-L1 loss.

    ``pull`` draws ``away + move`` to nothing, quadratically.
    """
    import numpy as np

    step = np.zeros(slopes.shape[1])
    # A weak pull to no move keeps constants where they are that nothing depends on.
    still = 1e-4 * np.eye(step.size)
    for _ in range(_NEWTON):
        left = smooth + slopes @ step
        weight = 1.0 / np.sqrt(1.0 + (left / scale) ** 2)
        weighted = slopes.T * weight
        gradient = weighted @ left + still @ step + pull * (away + step)
        # Constants at a bound that the descent pushes further out stay there.
        free = ~(((step <= least) & (gradient > 0)) | ((step >= most) & (gradient < 0)))
        if not free.any():
            break
        hessian = (weighted @ slopes + still + np.diag(pull))[np.ix_(free, free)]
        move = np.zeros(step.size)
        move[free] = np.linalg.solve(hessian, -gradient[free])
        following = np.clip(step + move, least, most)
        if float(np.abs(following - step).max()) < 1e-4:
            return np.asarray(following)
        step = following
    return np.asarray(step)
