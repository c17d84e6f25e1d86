"""The search: it finds the bottom of jittering valleys, stays inside bounds, and says how sure it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.scenario.search import search

WIDTHS = np.array([0.5, 0.5])
LOW, HIGH = np.array([-5.0, -5.0]), np.array([5.0, 5.0])
SLOPES = np.random.default_rng(0).normal(0, 1, (20, 2))


def jumping(truth: Any, step: float) -> Any:
    """A linear response that jumps by ``step``, as a simulation deciding in whole requests does."""

    def residual(x: Any) -> Any:
        moved = SLOPES @ (x - truth)
        return np.round(moved / step) * step if step else moved

    return residual


@settings(max_examples=30)
@given(a=st.floats(-1.0, 1.0), b=st.floats(-1.0, 1.0), step=st.sampled_from([0.0, 0.02, 0.1]))
def test_the_bottom_is_found_in_spite_of_jumps(a: float, b: float, step: float) -> None:
    truth = np.array([a, b])
    found = search(jumping(truth, step), np.zeros(2), WIDTHS, LOW, HIGH, scale=0.1)
    assert found.point == pytest.approx(truth, abs=0.02 + 0.3 * step)
    assert found.noise <= 0.02 + step


def test_a_direction_that_nothing_depends_on_is_uncertain_and_does_not_move() -> None:
    def residual(x: Any) -> Any:
        return np.array([x[0] - 0.5, 2 * (x[0] - 0.5), 1e-9 * x[1]])

    found = search(residual, np.zeros(2), WIDTHS, LOW, HIGH, scale=0.1)
    assert found.point == pytest.approx([0.5, 0.0], abs=1e-3)
    assert found.covariance[1, 1] > 1e6 * found.covariance[0, 0]


def test_the_end_stays_inside_the_bounds() -> None:
    found = search(
        jumping(np.array([3.0, -3.0]), 0.0), np.zeros(2), WIDTHS, np.full(2, -0.4), np.full(2, 0.4), scale=0.1
    )
    assert found.point == pytest.approx([0.4, -0.4], abs=1e-6)


def test_outliers_do_not_pull_it() -> None:
    def residual(x: Any) -> Any:
        left = SLOPES @ (x - 0.3)
        left[:2] += 5.0
        return left

    found = search(residual, np.zeros(2), WIDTHS, LOW, HIGH, scale=0.05)
    assert found.point == pytest.approx([0.3, 0.3], abs=0.05)


def test_the_same_arguments_give_the_same_end_and_every_round_is_told() -> None:
    told: list[tuple[int, float]] = []
    ends = [
        search(jumping(np.array([0.2, 0.7]), 0.05), np.zeros(2), WIDTHS, LOW, HIGH, scale=0.1,
               spreads=(1.0, 0.5), tell=lambda number, misfit: told.append((number, misfit)))
        for _ in range(2)
    ]  # fmt: skip
    assert ends[0].point.tobytes() == ends[1].point.tobytes()
    assert [number for number, _ in told] == [1, 2, 1, 2]
    assert all(math.isfinite(misfit) for _, misfit in told)
