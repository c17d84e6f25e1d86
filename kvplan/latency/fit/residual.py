"""What the physical formula misses, as a smooth function of the shape: a Gaussian process on log errors.

The process has zero mean, a Matérn-5/2 covariance with one length per coordinate, and noise, so it returns
to the formula away from measurements and its standard deviation grows there. Its amplitude shrinks where a
kernel only streams memory (``streaming_share``): the formula is exact there, and wiggles learned from
launch-bound shapes must not leak into it. Hyperparameters maximise the penalised marginal likelihood, which
trusts that errors are smooth; how far that helps on shapes left out says ``strength``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kvplan.latency.fit.solve import Array

_LENGTH = (0.7, 40.0)
_AMPLITUDE = (0.01, 1.0)
_NOISE = (0.008, 0.2)
_SHRINK = (0.08, 1.0)
_TYPICAL_LENGTH = 4.0
"""Octaves over which a kernel's error typically changes; the penalty pulls lengths here."""
_TYPICAL_NOISE = 0.025


@dataclass(frozen=True, slots=True)
class Residual:
    """A fitted residual.

    Args:
        centres: training points, one row each.
        weights: of the centres in the mean.
        lengths: correlation length per coordinate.
        amplitude: prior standard deviation of the log error.
        noise: standard deviation of the measurement noise, in log time.
        shrink: amplitude factor where ``streaming_share`` is one.
        share: ``streaming_share`` of each centre.
        inverse: inverse covariance of the centres.
        strength: factor in [0, 1] that the weights contain; a refit keeps it.
    """

    centres: Array
    weights: Array
    lengths: Array
    amplitude: float
    noise: float
    shrink: float
    share: Array
    inverse: Array
    strength: float = 1.0

    def weakened(self, strength: float) -> Residual:
        """The same residual, correcting ``strength`` times as far."""
        return replace(self, weights=strength * self.weights, strength=strength * self.strength)

    def predict(self, points: Array, share: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (noise included) of the log error at ``points``."""
        cross = _covariance(
            points, self.centres, share, self.share, self.lengths, self.amplitude, self.shrink
        )
        prior = (self.amplitude * _factor(share, self.shrink)) ** 2
        explained = np.sum((cross @ self.inverse) * cross, axis=1)
        return cross @ self.weights, np.sqrt(np.maximum(prior - explained, 0.0) + self.noise**2)

    def correlation(self, points: Array) -> Array:
        """Correlation of the log error at each of ``points`` with that at each centre, in [0, 1]."""
        ones = np.ones(points.shape[0])
        zeros = np.zeros(self.share.size)
        return _covariance(points, self.centres, 0.0 * ones, zeros, self.lengths, 1.0, 1.0)

    def mean(self, points: Array, share: Array) -> Array:
        """Mean of the log error at ``points``."""
        cross = _covariance(
            points, self.centres, share, self.share, self.lengths, self.amplitude, self.shrink
        )
        return np.asarray(cross @ self.weights, dtype=np.float64)


def fit_residual(points: Array, share: Array, log_error: Array, like: Residual | None = None) -> Residual:
    """Fit to ``log_error`` (log of measured over predicted); with ``like``, keep its hyperparameters."""
    if like is None:
        lengths, amplitude, noise, shrink = _search(points, share, log_error)
        strength = 1.0
    else:
        lengths, amplitude, noise, shrink = like.lengths, like.amplitude, like.noise, like.shrink
        strength = like.strength
    covariance = _covariance(points, points, share, share, lengths, amplitude, shrink)
    inverse = _inverse(covariance, noise)
    weights = strength * (inverse @ log_error)
    return Residual(points, weights, lengths, amplitude, noise, shrink, share, inverse, strength)


def restore(
    centres: Array,
    weights: Array,
    lengths: Array,
    amplitude: float,
    noise: float,
    shrink: float,
    share: Array,
) -> Residual:
    """A residual from what a profile stores; the inverse covariance is computed again."""
    covariance = _covariance(centres, centres, share, share, lengths, amplitude, shrink)
    return Residual(centres, weights, lengths, amplitude, noise, shrink, share, _inverse(covariance, noise))


def _inverse(covariance: Array, noise: float) -> Array:
    size = covariance.shape[0]
    return np.asarray(np.linalg.inv(covariance + noise**2 * np.eye(size)), dtype=np.float64)


def _factor(share: Array, shrink: float) -> Array:
    return np.asarray(1.0 - share * (1.0 - shrink), dtype=np.float64)


def _covariance(
    left: Array, right: Array, left_share: Array, right_share: Array, lengths: Array, amplitude: float,
    shrink: float,
) -> Array:  # fmt: skip
    a, b = left / lengths, right / lengths
    square = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1)[None, :] - 2.0 * (a @ b.T)
    distance = np.sqrt(5.0 * np.maximum(square, 1e-18))
    matern = (1.0 + distance + distance * distance / 3.0) * np.exp(-distance)
    scale = np.outer(_factor(left_share, shrink), _factor(right_share, shrink))
    return np.asarray(amplitude**2 * scale * matern, dtype=np.float64)


def _search(points: Array, share: Array, log_error: Array) -> tuple[Array, float, float, float]:
    """Coordinate search over the logarithms of the hyperparameters, halving the step until it is fine."""
    dims = points.shape[1]
    identity = np.eye(log_error.size)
    bounds = [_LENGTH] * dims + [_AMPLITUDE, _NOISE, _SHRINK]
    low = np.log([b[0] for b in bounds])
    high = np.log([b[1] for b in bounds])
    start = [3.0] * dims + [max(float(log_error.std()), _AMPLITUDE[0]), 0.03, 0.5]
    theta = np.clip(np.log(start), low, high)

    def loss(t: Array) -> float:
        covariance = _covariance(
            points, points, share, share, np.exp(t[:dims]), float(np.exp(t[dims])), float(np.exp(t[dims + 2]))
        )
        try:
            factor = np.linalg.cholesky(covariance + np.exp(2.0 * t[dims + 1]) * identity)
        except np.linalg.LinAlgError:
            return np.inf
        white = np.linalg.solve(factor, log_error)
        penalty = 0.25 * np.sum((t[:dims] - np.log(_TYPICAL_LENGTH)) ** 2)
        penalty += (t[dims + 1] - np.log(_TYPICAL_NOISE)) ** 2
        return float(0.5 * white @ white + np.sum(np.log(np.diag(factor))) + penalty)

    best, step = loss(theta), 0.6
    while step > 0.07:
        improved = False
        for j in range(theta.size):
            for move in (step, -step):
                trial = theta.copy()
                trial[j] = np.clip(trial[j] + move, low[j], high[j])
                value = loss(trial)
                if value < best - 1e-4:
                    best, theta, improved = value, trial, True
                    break
        if not improved:
            step /= 2.0
    found = np.exp(theta)
    return found[:dims], float(found[dims]), float(found[dims + 1]), float(found[dims + 2])
