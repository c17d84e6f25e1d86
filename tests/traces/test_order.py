"""Sorting on the way, sorting whole, and spreading clumps."""

from __future__ import annotations

import pytest

from kvplan.errors import DataError
from kvplan.traces.accounting import Accounting
from kvplan.traces.order import by_arrival, from_first, noting_clumps, smooth, sorted_whole
from kvplan.traces.request import Request


def made(*arrivals: float) -> list[Request]:
    return [Request(str(i), at, ((i, 1),), 1, ((i, 1),), 1) for i, at in enumerate(arrivals)]


def ids(requests) -> str:
    return "".join(r.id for r in requests)


def test_ordered_requests_pass_as_they_are():
    books = Accounting("t")
    assert ids(by_arrival(made(0, 1, 1, 2), books, window=1)) == "0123"
    assert books.resorted == 0


def test_late_requests_move_forward_stably():
    books = Accounting("t")
    assert ids(by_arrival(made(0, 5, 3, 5, 3, 9), books, window=3)) == "024135"
    assert books.resorted == 2


def test_beyond_the_window_is_an_error_with_the_way_out():
    with pytest.raises(DataError, match="too far out of order") as caught:
        list(by_arrival(made(1, 2, 3, 4, 0), Accounting("t"), window=2))
    assert "trace: --sort full; simulate: --set workload.sort=full" in caught.value.hint


def test_within_the_window_is_enough():
    assert ids(by_arrival(made(2, 3, 4, 1), Accounting("t"), window=3)) == "3012"


def test_whole_sort_is_stable_and_counts():
    books = Accounting("t")
    assert ids(sorted_whole(made(4, 4, 3, 2, 2, 1), books)) == "534201"
    assert books.resorted == 4


def test_from_first():
    assert [r.arrival_s for r in from_first(made(-2.5, 0, 4))] == [0.0, 2.5, 6.5]


def test_smooth_spreads_clumps_over_the_gap_that_follows():
    spread = [r.arrival_s for r in smooth(made(0, 0, 0, 3, 6, 6))]
    assert spread == [0.0, 1.0, 2.0, 3.0, 6.0, 7.5]


@pytest.mark.parametrize(
    ("arrivals", "said"),
    [
        (
            [second for second in range(10) for _ in range(1 + second % 4)],
            "23 requests come at 10 instants, up to 4",
        ),
        ([*range(15), *[15] * 15], "30 requests come at 16 instants, up to 15 at once"),
        ([0] * 30, None),  # all at once is no clock's doing
        ([0, 0, 1, 1], None),  # too few to tell
        (list(range(40)), None),
    ],
)
def test_arrivals_that_a_coarse_clock_put_together_are_told(arrivals, said):
    report = Accounting("t")
    requests = made(*arrivals)
    assert list(noting_clumps(requests, report)) == requests
    assert any(said in note for note in report.notes) if said else not report.notes


def test_smooth_leaves_one_clump_alone():
    assert [r.arrival_s for r in smooth(made(5, 5))] == [5, 5]
