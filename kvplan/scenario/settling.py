"""Whether a run was long enough to show what its load does.

An engine starts empty, and a load shows in it only once requests have come and gone many times over. A run
that ends before flatters every load, also one under which the queue grows for ever, and the more the shorter
it is. Two things tell, both of the time in which requests arrive, as what is left drains without them:

* it is several times as long as the slowest requests stay (``LIFETIMES``);
* its second half has about as many requests in the engine as its first (``FILLED``). An engine that fills
  with time constant ``t`` over ``T`` seconds of arrivals has ``1 + 2 t / T`` times as many, one whose queue
  grows steadily three times.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

from kvplan.engine.recorder import RequestRow

LIFETIMES = 10.0
"""Arrivals last so many times the 99th percentile of E2E at least."""
FILLED = 1.25
"""Requests in the engine in the second half of the arrivals over those in the first, at most."""
TAIL = 10
"""Requests beyond the highest percentile that is judged, at least."""

STRETCH = 64
"""A synthetic workload is made at most so many times as long as it was asked for ..."""
MOST_REQUESTS = 50_000
"""... and no longer than this, where nothing else is said."""


class Stays:
    """When each request that finished came and went."""

    def __init__(self) -> None:
        self._arrived, self._left = array("d"), array("d")

    def add(self, row: RequestRow) -> None:
        """Hear of a request that finished."""
        self._arrived.append(row.arrival_s)
        self._left.append(row.finish_s)

    @property
    def arrivals_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return max(self._arrived) - min(self._arrived) if self._arrived else 0.0

    @property
    def growth(self) -> float | None:
        """Requests in the engine in the arrivals' second half over those in the first; None for none."""
        if not self._arrived:
            return None
        begin, end = min(self._arrived), max(self._arrived)
        middle = (begin + end) / 2
        first = second = 0.0
        for arrived, left in zip(self._arrived, self._left, strict=True):
            if arrived < middle:
                first += min(left, middle) - arrived
            if left > middle:
                second += min(left, end) - max(arrived, middle)
        return second / first if first > 0.0 else None


def settled(figures: Mapping[str, Any]) -> bool | None:
    """Whether a point's run was long enough; None where its figures do not say (they did not always)."""
    arrivals_s, stay_s, growth = (figures.get(name) for name in ("arrivals_s", "e2e_p99_s", "growth"))
    if arrivals_s is None:
        return None
    return stay_s is not None and arrivals_s >= LIFETIMES * stay_s and growth is not None and growth <= FILLED


def tail(figures: Mapping[str, Any]) -> float:
    """Requests that the highest percentile of the objectives rests on."""
    highest = max((int(item["name"].split("_")[1][1:]) for item in figures["objectives"]), default=50)
    return float(figures["finished"] * (100 - highest) / 100)


def most_requests(begin: int, chosen: int | None) -> int:
    """Requests up to which a workload of ``begin`` is made longer, where nobody has ``chosen``."""
    return chosen or max(begin, min(STRETCH * begin, MOST_REQUESTS))


def longer(figures: Mapping[str, Any], requests: int, most: int) -> int | None:
    """How many requests to try after so many, whose run was like this; None where that is beyond ``most``."""
    far = figures["arrivals_s"] < LIFETIMES / 2 * (figures["e2e_p99_s"] or 0.0)
    return next((times * requests for times in ((4, 2) if far else (2,)) if times * requests <= most), None)
