"""Bands: laws of their width, and coverage where errors differ from region to region."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.latency.fit.band import Band, _quantile, fit_band
from kvplan.latency.fit.residual import Residual, fit_residual
from kvplan.latency.fit.solve import Array


def residual_at(points: Array) -> Residual:
    like = Residual(
        points, np.zeros(len(points)), np.full(points.shape[1], 1.5), 0.05, 0.02, 1.0,
        np.zeros(len(points)), np.eye(len(points)),
    )  # fmt: skip
    return fit_residual(points, np.zeros(len(points)), np.zeros(len(points)), like=like)


def two_regions(seed: int, count: int) -> tuple[Array, Array]:
    """Points on a line, and errors four times as large on its right half."""
    rng = np.random.default_rng(seed)
    points = np.sort(rng.uniform(0, 20, count))[:, None]
    return points, rng.normal(0, 1, count) * np.where(points[:, 0] < 10, 0.02, 0.08)


def test_each_region_is_covered_by_a_width_of_its_own() -> None:
    inside: dict[str, list[float]] = {"left": [], "right": []}
    widths: dict[str, list[float]] = {"left": [], "right": []}
    for seed in range(12):
        points, errors = two_regions(seed, 120)
        residual = residual_at(points)
        band = fit_band(residual, errors, np.full(120, 0.03))
        test, truth = two_regions(1000 + seed, 2000)
        width = band.width(residual, test, np.full(2000, 0.03))
        covered = np.abs(truth) <= width
        for name, part in (("left", test[:, 0] < 9), ("right", test[:, 0] > 11)):
            inside[name].append(float(covered[part].mean()))
            widths[name].append(float(np.median(width[part])))
    assert 0.86 <= np.mean(inside["left"]) <= 0.99
    assert 0.82 <= np.mean(inside["right"]) <= 0.95
    assert np.mean(widths["right"]) > 2 * np.mean(widths["left"])


@given(
    errors=st.lists(st.floats(-0.5, 0.5), min_size=5, max_size=60), factor=st.floats(1.01, 10.0),
    where=st.floats(-50, 50),
)  # fmt: skip
def test_widths_are_positive_follow_the_errors_and_grow_with_the_deviation(
    errors: list[float], factor: float, where: float
) -> None:
    points = np.arange(len(errors), dtype=np.float64)[:, None]
    residual, deviation = residual_at(points), np.full(len(errors), 0.05)
    band = fit_band(residual, np.array(errors), deviation)
    at = np.array([[where]])
    width = band.width(residual, at, np.array([0.05]))[0]
    assert np.isfinite(width)
    assert width >= 0
    assert band.width(residual, at, np.array([0.05 * factor]))[0] >= width
    twice = fit_band(residual, 2 * np.array(errors), deviation)
    assert twice.width(residual, at, np.array([0.05]))[0] == pytest.approx(2 * width, rel=1e-6, abs=1e-9)


def test_most_of_the_shapes_it_was_made_from_are_inside() -> None:
    points, errors = two_regions(3, 120)
    residual = residual_at(points)
    band = fit_band(residual, errors, np.full(120, 0.03))
    assert np.mean(np.abs(errors) <= band.width(residual, points, np.full(120, 0.03))) >= 0.9


def test_without_scores_the_deviation_is_all_there_is() -> None:
    residual = residual_at(np.zeros((1, 1)))
    width = Band(1.9, np.zeros(0)).width(residual, np.array([[7.0]]), np.array([0.04]))
    assert width == pytest.approx(1.9 * 0.04)


@pytest.mark.parametrize(("count", "least"), [(12, 0.82), (30, 0.86), (60, 0.87), (120, 0.88)])
def test_nine_tenths_of_other_shapes_are_inside_however_few_were_fitted(count: int, least: float) -> None:
    inside = []
    residual = residual_at(np.arange(count, dtype=np.float64)[:, None] * 40.0)  # nobody has neighbours
    deviation = np.full(count, 0.03)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        band = fit_band(residual, rng.normal(0, 0.05, count), deviation)
        width = band.width(residual, np.array([[-500.0]]), np.array([0.03]))[0]
        inside.append(np.mean(np.abs(rng.normal(0, 0.05, 400)) <= width))
    assert least <= np.mean(inside) <= 0.94
    assert np.std(inside) < 0.13 * np.sqrt(12 / count) + 0.01


def test_the_quantile_is_the_mean_of_the_largest_of_ranks() -> None:
    """At level n / (n + 1) the weights are those of the largest of n uniform numbers, ``(i/n)^n - ((i-1)/n)^n``."""
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    knots = (np.arange(6) / 5.0) ** 5
    assert _quantile(values, 5 / 6) == pytest.approx(float(np.diff(knots) @ values), rel=1e-3)
    assert _quantile(np.full(7, 3.0), 0.9) == pytest.approx(3.0)
    assert _quantile(values, 0.5) == pytest.approx(_mean_of_beta(values, 3.0, 3.0), rel=1e-3)


def _mean_of_beta(values: Array, above: float, below: float) -> float:
    rng = np.random.default_rng(1)
    rank = (rng.beta(above, below, 2_000_000) * values.size).astype(int)
    return float(values[np.minimum(rank, values.size - 1)].mean())
