"""When points of a series are due that is sampled at arrivals, once everybody has arrived."""

from __future__ import annotations

_SHORTEST_GAP_S = 1e-3
"""Between points, where all requests arrive at once."""


class AfterArrivals:
    """Goes on as if requests kept arriving at their mean distance.

    Args:
        arrived: requests that did. first_s, last_s: when the first and the last of them did.
    """

    __slots__ = ("_arrived", "_gap_s", "_last_s", "_number")

    def __init__(self, arrived: int, first_s: float, last_s: float) -> None:
        self._arrived = self._number = arrived
        self._last_s = last_s
        self._gap_s = max((last_s - first_s) / max(arrived - 1, 1), _SHORTEST_GAP_S)

    def next_s(self, stride: int) -> float:
        """The time of the next point; of ``stride`` arrivals one has a point."""
        number = -(-self._number // stride) * stride
        self._number = number + 1
        return self._last_s + (number - self._arrived + 1) * self._gap_s
