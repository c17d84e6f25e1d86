"""Bands: laws of their width, and coverage where errors differ from region to region."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.latency.fit.band import Band, fit_band
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
