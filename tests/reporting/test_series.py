"""Thinning keeps what matters; windows add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.reporting.series import mean_over_time, thin, windowed_ratio


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=400), st.integers(4, 100))
def test_thinning_keeps_ends_extremes_order_and_bound(y: list[int], limit: int):
    x = list(range(len(y)))
    xs, ys = thin(x, y, limit)
    assert len(xs) <= max(limit, 4)
    assert xs == sorted(set(xs))
    assert [y[int(i)] for i in xs] == ys
    assert (xs[0], xs[-1]) == (0, len(y) - 1)
    assert (min(ys), max(ys)) == (min(y), max(y))


def test_a_short_line_is_untouched():
    assert thin([1, 2, 3], [4, 5, 6]) == ([1, 2, 3], [4, 5, 6])


def test_a_line_needs_four_points():
    with pytest.raises(ValueError, match="at least 4"):
        thin([1], [1], 3)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=200))
def test_windows_add_up_to_the_whole(gains: list[tuple[int, int]]):
    part, whole, t = [0], [0], [0.0]
    for hit, extra in gains:
        part.append(part[-1] + hit)
        whole.append(whole[-1] + hit + extra)
        t.append(t[-1] + 1.0)
    at, ratios = windowed_ratio(t, part, whole, windows=20)
    assert len(at) == len(ratios) == 20
    known = [ratio for ratio in ratios if ratio is not None]
    assert all(0 <= ratio <= 1 for ratio in known)
    if whole[-1]:
        assert min(known) <= part[-1] / whole[-1] <= max(known)
    else:
        assert known == []


def test_windows_are_by_time_not_by_sample():
    at, ratios = windowed_ratio([0, 1, 2, 3, 100], [0, 5, 10, 15, 15], [0, 10, 20, 30, 40], windows=2)
    assert at == [25, 75]
    assert ratios == [0.5, 0.0]
    assert windowed_ratio([5.0], [1], [1]) == ([], [])


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000)), min_size=1, max_size=50), st.data())
def test_a_mean_over_time_does_not_depend_on_how_often_a_line_is_sampled(
    steps: list[tuple[float, int]], data: st.DataObject
):
    t = [0.0]
    for gap, _ in steps:
        t.append(t[-1] + gap)
    y = [value for _, value in steps] + [7]
    mean = mean_over_time(t, y)
    assert min(y) - 1e-9 <= mean <= max(y) + 1e-9
    at = data.draw(st.integers(0, len(steps) - 1))
    twice = (t[at] + t[at + 1]) / 2
    again = mean_over_time([*t[: at + 1], twice, *t[at + 1 :]], [*y[: at + 1], y[at], *y[at + 1 :]])
    assert again == pytest.approx(mean)


def test_a_mean_over_time_weighs_by_time():
    assert mean_over_time([0.0, 1.0, 1.1, 1.2, 4.0], [10, 0, 0, 20, 99]) == pytest.approx((10 + 20 * 2.8) / 4)
    assert mean_over_time([3.0], [5]) == 5
