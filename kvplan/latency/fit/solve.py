"""Robust non-linear least squares in numpy: Levenberg-Marquardt under a soft-L1 loss, with restarts.

Written here because fits have a dozen parameters and a few hundred points, which does not earn a
dependency on scipy. Parameters are positive physical quantities (seconds, bytes per second, counts) and
are searched as logarithms, so that no step can make one negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_STEP = 1e-5
"""Relative parameter step of the forward-difference Jacobian."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One positive unknown: where the search starts and the range physics allows."""

    name: str
    start: float
    low: float
    high: float


KNOWN = 1.02
"""Factor within which a parameter that is known stays."""


def held(parameters: Sequence[Parameter], known: Sequence[tuple[str, float]]) -> list[Parameter]:
    """The same parameters; those whose values are known stay there."""
    values = dict(known)
    return [
        Parameter(p.name, values[p.name], values[p.name] / KNOWN, values[p.name] * KNOWN)
        if p.name in values else p
        for p in parameters
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Solution:
    """Fitted values by parameter order, and the robust cost they reach."""

    values: Array
    cost: float


def soft_l1_cost(residual: Array, scale: float) -> float:
    """``sum(2 * scale^2 * (sqrt(1 + (r/scale)^2) - 1)) / 2``: quadratic near zero, linear for outliers."""
    return float(np.sum(np.sqrt(1.0 + (residual / scale) ** 2) - 1.0) * scale * scale)


def least_squares(
    model: Callable[[Array], Array],
    target: Array,
    parameters: Sequence[Parameter],
    *,
    loss_scale: float = 0.1,
    prior_sigma: float = 3.0,
    restarts: int = 4,
    spread: float = 0.4,
    iterations: int = 120,
    seed: int = 0,
    initial: Array | None = None,
) -> Solution:
    """Minimise the soft-L1 cost of ``log(model / target)`` plus a weak pull to the starting values.

    Args:
        model: predicted times from the parameter values, shape of ``target``.
        target: measured times, positive.
        parameters: the unknowns.
        loss_scale: relative error from which a point counts as an outlier.
        prior_sigma: width, in e-folds, of the pull towards the start. It only matters for a parameter
            that the points do not identify; without it such a parameter drifts to a bound.
        restarts: further starts drawn around the first one; the best end wins.
        spread: standard deviation, in e-folds, of those starts.
        iterations: most steps per start.
        seed: of the starts.
        initial: values to begin from instead of the starts (a refit); the pull stays towards the starts.
    """
    start = np.log([p.start for p in parameters])
    low = np.log([p.low for p in parameters])
    high = np.log([p.high for p in parameters])
    log_target = np.log(target)
    weight = loss_scale / prior_sigma

    def residual(x: Array) -> Array:
        return np.concatenate([np.log(model(np.exp(x))) - log_target, weight * (x - start)])

    rng = np.random.default_rng(seed)
    first = start if initial is None else np.log(initial)
    best: Solution | None = None
    for attempt in range(restarts + 1):
        x = first if attempt == 0 else first + rng.normal(0.0, spread, start.size)
        x, cost = _descend(residual, np.clip(x, low, high), low, high, loss_scale, iterations)
        if best is None or cost < best.cost:
            best = Solution(np.exp(x), cost)
    assert best is not None
    return best


def _descend(
    residual: Callable[[Array], Array], x: Array, low: Array, high: Array, scale: float, iterations: int
) -> tuple[Array, float]:
    r = residual(x)
    cost = soft_l1_cost(r, scale)
    damping = 1e-2
    for _ in range(iterations):
        jacobian = np.empty((r.size, x.size))
        for j in range(x.size):
            moved = x.copy()
            moved[j] += _STEP if x[j] + _STEP <= high[j] else -_STEP
            jacobian[:, j] = (residual(moved) - r) / (moved[j] - x[j])
        # Gauss-Newton on the reweighted residual: the weight of soft-L1 is 1/sqrt(1 + (r/scale)^2).
        w = 1.0 / np.sqrt(1.0 + (r / scale) ** 2)
        gradient = jacobian.T @ (w * r)
        hessian = (jacobian.T * w) @ jacobian
        improved = False
        for _ in range(12):
            step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian) + 1e-12), -gradient)
            trial = np.clip(x + np.clip(step, -1.0, 1.0), low, high)
            trial_residual = residual(trial)
            trial_cost = soft_l1_cost(trial_residual, scale)
            if trial_cost < cost:
                improved = True
                break
            damping *= 4.0
        if not improved:
            break
        gain = cost - trial_cost
        x, r, cost = trial, trial_residual, trial_cost
        damping = max(damping / 6.0, 1e-9)
        if gain < 1e-7 * cost:
            break
    return x, cost
