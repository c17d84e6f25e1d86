"""Fitting a kernel to fewer points than its formula has parameters: most of them are taken from elsewhere.

A handful of points cannot fix seventeen parameters, but it can say by how much a kernel differs from one
that was measured well (another code of the same width, say), or fix the few parameters that decide. Those
are fitted under a pull to where they start; the others stay as they are. Errors are those of points left
out one at a time, and the band is at least a quarter wider than the donor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvplan.errors import DataError
from kvplan.latency.fit.band import Band
from kvplan.latency.fit.kernel import FittedKernel, take
from kvplan.latency.fit.residual import Residual, restore
from kvplan.latency.fit.solve import Array, Parameter, least_squares
from kvplan.latency.fit.structure import Columns, Structure

FEWEST = 2
WIDER = 1.25
_BAND = 1.9
"""Half width of a band in deviations, where no donor says better."""
_LEAST_NOISE = 0.03


@dataclass(frozen=True, slots=True)
class FewFit:
    """A kernel fitted to few points, and the log errors of points when left out."""

    kernel: FittedKernel
    errors: Array


def fit_few(
    structure: Structure,
    shapes: Columns,
    seconds: Array,
    *,
    free: Sequence[str],
    start: Array,
    sigma: float,
    donor: FittedKernel | None = None,
) -> FewFit:
    """Fit the parameters named ``free``.

    Args:
        start: values of all parameters, in the structure's order.
        sigma: width of the pull to ``start``, in e-folds.
        donor: the kernel whose residual, range and band are taken over.

    Raises:
        DataError: fewer than two points, or no more points than free parameters and no donor.
    """
    count = seconds.size
    if count < FEWEST or (donor is None and count <= len(free)):
        need = FEWEST if donor is not None else len(free) + 1
        raise DataError(
            f"{count} measurements of {structure.name} cannot fix {len(free)} parameters",
            hint=f"measure at least {need} shapes",
        )
    values = _descend(structure, shapes, seconds, free, start, sigma)
    errors = np.empty(count)
    for index in range(count):
        keep = np.arange(count) != index
        refit = _descend(structure, take(shapes, keep), seconds[keep], free, start, sigma)
        held = {name: column[index : index + 1] for name, column in shapes.items()}
        guess = structure.seconds(refit, held)
        if donor is not None:
            guess = guess * np.exp(_mean(donor.residual, structure, refit, held))
        errors[index] = float(np.log(seconds[index] / guess[0]))
    low = {name: float(np.min(shapes[name])) for name in structure.columns}
    high = {name: float(np.max(shapes[name])) for name in structure.columns}
    if donor is None:
        residual = _flat(structure, shapes, float(np.sqrt(np.mean(errors**2))))
        band = Band(_BAND, np.zeros(0))
        return FewFit(FittedKernel(structure, values, residual, band, low, high, int(count)), errors)
    residual = donor.residual
    points = structure.coordinates(shapes)
    _, deviation = residual.predict(points, structure.streaming_share(values, shapes))
    seen = np.abs(errors) / donor.band.unit(residual, points, deviation)
    band = donor.band.wider(max(WIDER * donor.band.factor, float(np.max(seen))))
    for name in structure.columns:
        if name != "kv_element_bytes":
            low[name], high[name] = min(low[name], donor.low[name]), max(high[name], donor.high[name])
    return FewFit(FittedKernel(structure, values, residual, band, low, high, int(count)), errors)


def _descend(
    structure: Structure, shapes: Columns, seconds: Array, free: Sequence[str], start: Array, sigma: float
) -> Array:
    every = structure.parameters()
    places = [index for index, parameter in enumerate(every) if parameter.name in free]
    begin = [float(start[index]) for index in places]
    unknown = [
        Parameter(every[i].name, value, min(every[i].low, value), max(every[i].high, value))
        for i, value in zip(places, begin, strict=True)
    ]

    def model(part: Array) -> Array:
        values = np.array(start, dtype=np.float64)
        values[places] = part
        return structure.seconds(values, shapes)

    found = least_squares(model, seconds, unknown, prior_sigma=sigma, restarts=2)
    values = np.array(start, dtype=np.float64)
    values[places] = found.values
    return values


def _mean(residual: Residual, structure: Structure, values: Array, shapes: Columns) -> Array:
    return residual.mean(structure.coordinates(shapes), structure.streaming_share(values, shapes))


def _flat(structure: Structure, shapes: Columns, deviation: float) -> Residual:
    """A residual that corrects nothing and scatters as the points left out did."""
    centre = np.mean(structure.coordinates(shapes), axis=0, keepdims=True)
    ones = np.ones(centre.shape[1])
    noise = max(deviation, _LEAST_NOISE)
    return restore(centre, np.zeros(1), 4.0 * ones, 0.02, noise, 1.0, np.zeros(1))
