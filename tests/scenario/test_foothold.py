"""Where a search begins: what is far from usual is found, and nothing moves that need not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvplan.scenario.foothold import STRIDES, foothold

USUAL = np.array([1.0, 1.0, 0.0])
LOW, HIGH, PULL = np.full(3, -2.0), np.full(3, 2.5), np.full(3, 0.01)


def queue(truth: Any) -> Any:
    """Two front ends: one holds up nobody below a load of 2 and everybody above; the other is seen always."""

    def seen(x: Any) -> Any:
        return np.array([max(x[0] - 2.0, 0.0) * 5.0, x[1], x[2], x[1] - x[2]])

    return lambda x: seen(x) - seen(truth)


def begun(truth: Any, start: Any = (0.0, 0.0, 0.0), usual: Any = USUAL) -> Any:
    return foothold(queue(np.array(truth)), np.array(start), usual, LOW, HIGH, scale=0.1, pull=PULL)


def test_what_shows_only_far_away_is_found_within_bounds() -> None:
    """Nothing within two deviations differs from the start, so no slope leads there."""
    assert begun([2.4, 0.0, 0.0]) == pytest.approx([2.5, 0.0, 0.0])


def test_several_constants_may_be_far_off() -> None:
    assert begun([2.4, -1.5, 0.0]) == pytest.approx([2.5, -1.5, 0.0])


def test_a_start_that_is_near_stays() -> None:
    assert begun([0.0, 0.2, 0.0]) == pytest.approx([0.0, 0.0, 0.0])


def test_a_constant_that_is_never_far_off_is_not_tried_elsewhere() -> None:
    assert begun([0.0, 0.0, 2.0])[2] == 0.0
    assert begun([0.0, 2.0, 0.0], usual=np.zeros(3)) == pytest.approx([0.0, 0.0, 0.0])


def test_what_shows_nothing_stays_where_it_is_usual() -> None:
    found = foothold(lambda x: np.array([x[0] - 2.0]), np.zeros(3), USUAL, LOW, HIGH, scale=0.1, pull=PULL)
    assert found == pytest.approx([max(s for s in STRIDES if s <= 2.0), 0.0, 0.0])
