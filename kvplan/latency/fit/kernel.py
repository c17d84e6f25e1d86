"""One fitted kernel: formula + residual + band + the range it was measured in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvplan.errors import DataError
from kvplan.latency.fit.band import Band, fit_band
from kvplan.latency.fit.design import spread
from kvplan.latency.fit.residual import Residual, fit_residual
from kvplan.latency.fit.solve import Array, least_squares
from kvplan.latency.fit.structure import Columns, Structure

FOLDS = 6
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the residual may be kept; the one that predicts left-out shapes best is."""
MAX_CORRECTION = 2.0
"""The residual may move a prediction by at most this many e-folds: more means the formula is wrong."""
CLEARLY = 0.5
"""Share of the usual formula's error on left-out shapes that another one must stay under to be taken."""
WIDEN_PER_OCTAVE = 0.25
"""A band grows by this share of itself, and 5 % of the time, per octave outside the measured range."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds with a band: ``low <= measured <= high`` for about nine in ten shapes like the measured.

    ``outside`` is how many octaves, all columns together, a shape lies outside the measured range.
    """

    seconds: Array
    low: Array
    high: Array
    outside: Array


@dataclass(frozen=True, slots=True)
class FittedKernel:
    """Parameters of a structure, the residual, and the band around both."""

    structure: Structure
    values: Array
    residual: Residual
    band: Band
    low: dict[str, float]
    high: dict[str, float]
    trained_on: int

    def seconds(self, shapes: Columns) -> Array:
        """Predicted seconds."""
        base = self.structure.seconds(self.values, shapes)
        share = self.structure.streaming_share(self.values, shapes)
        mean = self.residual.mean(self.structure.coordinates(shapes), share)
        return np.asarray(base * np.exp(np.clip(mean, -MAX_CORRECTION, MAX_CORRECTION)))

    def predict(self, shapes: Columns) -> Prediction:
        """Predicted seconds with their band."""
        base = self.structure.seconds(self.values, shapes)
        share = self.structure.streaming_share(self.values, shapes)
        mean, deviation = self.residual.predict(self.structure.coordinates(shapes), share)
        seconds = base * np.exp(np.clip(mean, -MAX_CORRECTION, MAX_CORRECTION))
        outside = self.octaves_outside(shapes)
        width = self.band.width(self.residual, self.structure.coordinates(shapes), deviation)
        width = width * (1.0 + WIDEN_PER_OCTAVE * outside) + 0.05 * outside
        # Where the residual asks for more than it may move, the band reaches as far as it asks.
        width = width + np.maximum(np.abs(mean) - MAX_CORRECTION, 0.0)
        return Prediction(seconds, seconds * np.exp(-width), seconds * np.exp(width), outside)

    def octaves_outside(self, shapes: Columns) -> Array:
        """Octaves by which each shape leaves the measured range, summed over columns."""
        total = np.zeros(np.broadcast(*(shapes[name] for name in self.structure.columns)).shape)
        for name in self.structure.columns:
            value = np.maximum(shapes[name], 0.5)  # 0 means "none" (no window, nothing before)
            total = total + np.maximum(np.log2(max(self.low[name], 0.5)) - np.log2(value), 0.0)
            total = total + np.maximum(np.log2(value) - np.log2(max(self.high[name], 0.5)), 0.0)
        return np.asarray(total)


def take(shapes: Columns, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> dict[str, Array]:
    """The given rows of every column."""
    return {name: column[rows] for name, column in shapes.items()}


def designed_rows(structure: Structure, shapes: Columns, points: int) -> npt.NDArray[np.intp]:
    """Which rows to train on: spread over the shapes, times unseen.

    At most ``points``, and at most half of the rows, so that something is left to score; all of them where
    half would not fix the parameters.
    """
    coordinates = structure.design_coordinates(shapes)
    half = coordinates.shape[0] // 2
    enough = half > len(structure.parameters())
    return spread(coordinates, min(points, half) if enough else coordinates.shape[0])


def fit_kernel(structure: Structure, shapes: Columns, seconds: Array) -> FittedKernel:
    """Fit the structure, then the residual, then the band from cross-validated errors.

    Raises:
        DataError: times that are not positive and finite, or fewer points than parameters.
    """
    return _fit(structure, shapes, seconds)[0]


def fit_likeliest(structures: Sequence[Structure], shapes: Columns, seconds: Array) -> FittedKernel:
    """Fit the first structure, or another one whose formula tells left-out shapes clearly better.

    The formulas are compared without their residuals, which follow any smooth error: how a kernel is launched
    shows in what is not smooth.

    Args:
        structures: ways in which kernels of this op are launched, the usual one first.

    Raises:
        DataError: as ``fit_kernel`` for the first structure; others that too few points fix are not tried.
    """
    best, usual = _fit(structures[0], shapes, seconds)
    least = usual * CLEARLY
    for structure in structures[1:]:
        if seconds.size > len(structure.parameters()):
            fitted, error = _fit(structure, shapes, seconds)
            if error < least:
                best, least = fitted, error
    return best


def _fit(structure: Structure, shapes: Columns, seconds: Array) -> tuple[FittedKernel, float]:
    """The fit, and the mean absolute log error of its formula alone on shapes left out."""
    unknowns = len(structure.parameters())
    if not np.all(np.isfinite(seconds)) or np.any(seconds <= 0):
        bad = int(np.sum(~(np.isfinite(seconds) & (seconds > 0))))
        raise DataError(
            f"{bad} of {seconds.size} measured times of {structure.name} are not positive numbers",
            hint="remove the failed measurements and say why they failed; they are never guessed",
        )
    if seconds.size <= unknowns:
        raise DataError(
            f"{seconds.size} measurements of {structure.name} cannot fix its {unknowns} parameters",
            hint=f"measure more than {unknowns} shapes, better {4 * unknowns}",
        )
    solution = least_squares(
        lambda p: structure.seconds(p, shapes), seconds, structure.parameters(), restarts=8
    )
    share = structure.streaming_share(solution.values, shapes)
    error = np.log(seconds / structure.seconds(solution.values, shapes))
    residual = fit_residual(structure.coordinates(shapes), share, error)
    missed, mean, deviation = _left_out(structure, shapes, seconds, solution.values, residual)
    # Where times scatter more than they curve (calls that wait for their host), corrections are noise.
    strength = min(STRENGTHS, key=lambda part: float(np.mean(np.abs(missed - part * mean))))
    residual = residual.weakened(strength)
    band = fit_band(residual, missed - strength * mean, deviation)
    low = {name: float(np.min(shapes[name])) for name in structure.columns}
    high = {name: float(np.max(shapes[name])) for name in structure.columns}
    fitted = FittedKernel(structure, solution.values, residual, band, low, high, seconds.size)
    return fitted, float(np.mean(np.abs(missed)))


def fold_errors(
    structure: Structure, shapes: Columns, seconds: Array, values: Array, residual: Residual
) -> Array:
    """Log of measured over predicted of every shape when it was held out; see ``_left_out``."""
    missed, mean, _ = _left_out(structure, shapes, seconds, values, residual)
    return missed - mean


def _left_out(
    structure: Structure, shapes: Columns, seconds: Array, values: Array, residual: Residual
) -> tuple[Array, Array, Array]:
    """Of every shape when it was held out: (log error of the formula, the residual's mean and deviation).

    Each of ``FOLDS`` folds refits the formula and the residual's weights without the held-out points, so the
    errors are those of shapes never seen; lengths, noise and strength of the residual are kept.
    """
    fold = np.arange(seconds.size) % FOLDS
    np.random.default_rng(0).shuffle(fold)
    missed, means, deviations = np.empty(seconds.size), np.empty(seconds.size), np.empty(seconds.size)
    for index in range(FOLDS):
        out = fold == index
        held, kept = take(shapes, out), take(shapes, ~out)
        refit = least_squares(
            lambda p, rows=kept: structure.seconds(p, rows),  # type: ignore[misc]
            seconds[~out], structure.parameters(), restarts=0, iterations=40, initial=values,
        ).values  # fmt: skip
        error = np.log(seconds[~out] / structure.seconds(refit, kept))
        part = fit_residual(
            structure.coordinates(kept), structure.streaming_share(refit, kept), error, like=residual
        )
        means[out], deviations[out] = part.predict(
            structure.coordinates(held), structure.streaming_share(refit, held)
        )
        missed[out] = np.log(seconds[out] / structure.seconds(refit, held))
    return missed, means, deviations
