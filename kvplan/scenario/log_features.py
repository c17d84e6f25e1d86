"""What two serving runs are compared by: percentiles of what requests saw, over all and by bins."""

from __future__ import annotations

import math
import random
import statistics
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from kvplan.scenario.measured import Measured

METRICS = ("ttft", "tpot", "e2e")
PARTS = ("prefill", "before")
"""Of TTFT, where the server said them of every request: the engine's own time, and what clients wait beside.
Each tells the constants of its side, whatever the other's are."""
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
PROMPT_BINS = (1 / 3, 2 / 3)
FLIGHT_BINS = (0.05, 0.15, 0.35, 0.65, 0.85, 0.95)
"""Shares of the requests between bins. A busy run is nearly empty while it fills and drains: the few requests
of then tell what a step takes without a batch."""
RESAMPLES = 40
"""Of a bootstrap."""


Feature = tuple[list[float], float | None]
"""Values by request, and the level of the quantile of them that counts; None: their mean."""


def features(rows: Sequence[Measured], real: Sequence[Measured], flight: Sequence[float]) -> list[float]:
    """Logarithms of what is compared; ``real`` and ``flight`` decide which request is in which bin."""
    return [_log(values, level) for values, level in _features(rows, real, flight)]


def feature_errors(
    rows: Sequence[Measured], real: Sequence[Measured], flight: Sequence[float]
) -> list[float]:
    """Standard errors of the difference of two runs' ``features``, as they have so few requests.

    By bootstrap, of the same requests in both runs: how their lengths differ is no error, a stall in one of
    the runs is.
    """
    found = []
    pairs = zip(_features(rows, real, flight), _features(real, real, flight), strict=True)
    for index, ((ours, level), (theirs, _)) in enumerate(pairs):
        stream, requests, again = random.Random(f"features/{index}"), range(len(ours)), []
        for _ in range(RESAMPLES):
            drawn = stream.choices(requests, k=len(ours))
            again.append(_log([ours[i] for i in drawn], level) - _log([theirs[i] for i in drawn], level))
        found.append(statistics.pstdev(again))
    return found


def _log(values: Sequence[float], level: float | None) -> float:
    middle = math.fsum(values) / len(values) if level is None else quantile(sorted(values), level)
    return math.log(max(middle, 1e-6))


def _features(rows: Sequence[Measured], real: Sequence[Measured], flight: Sequence[float]) -> list[Feature]:
    found: list[Feature] = []
    parts = PARTS if all(row.prefill_s is not None for row in real) else ()
    for metric in (*METRICS, *parts):
        values = [value for row in rows if (value := value_of(row, metric)) is not None]
        if values:
            # Of requests that come in waves percentiles jump from one wave to the next; their mean does not.
            found += [(values, level) for level in (None, *LEVELS)]
    for metric, by, shares in (
        *((metric, [float(row.prompt_tokens) for row in real], PROMPT_BINS) for metric in ("ttft", *parts)),
        ("tpot", flight, FLIGHT_BINS),
    ):
        edges = [quantile(sorted(by), share) for share in shares]
        for part in range(len(edges) + 1):
            inside = [
                value for row, key in zip(rows, by, strict=True)
                if bisect_right(edges, key) == part and (value := value_of(row, metric)) is not None
            ]  # fmt: skip
            # All bins are there in both runs: which request is where depends on the measured one alone.
            if len(inside) >= 5:
                found.append((inside, 0.5))
    return found


def in_flight(rows: Sequence[Measured]) -> list[float]:
    """Requests in flight, itself included, averaged over the time in which each has its tokens but the first.

    Of one with a single token: over its life.
    """
    starts = _Elapsed(row.arrival_s for row in rows)
    ends = _Elapsed(row.arrival_s + row.e2e_s for row in rows)
    found = []
    for row in rows:
        end = row.arrival_s + row.e2e_s
        begin = row.arrival_s if row.e2e_s <= row.ttft_s else row.arrival_s + row.ttft_s
        alive = starts.between(begin, end) - ends.between(begin, end)
        found.append(alive / (end - begin))
    return found


class _Elapsed:
    """Seconds that have passed since moments, summed over those that have passed."""

    def __init__(self, moments: Iterable[float]) -> None:
        self._moments = sorted(moments)
        self._sums = [0.0, *accumulate(self._moments)]

    def between(self, begin: float, end: float) -> float:
        """By how much the sum grows."""
        return self._until(end) - self._until(begin)

    def _until(self, now: float) -> float:
        passed = bisect_right(self._moments, now)
        return passed * now - self._sums[passed]


def value_of(row: Measured, metric: str) -> float | None:
    """A request's ``metric`` in seconds; None where it has none."""
    found: float | None = getattr(row, f"{metric}_s")
    return found


def statistics_of(rows: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """``STATISTICS`` of each metric; none where nobody has it."""
    found: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        values = sorted(value for row in rows if (value := value_of(row, metric)) is not None)
        found[metric] = (
            {"mean": math.fsum(values) / len(values), "p50": quantile(values, 0.5),
             "p90": quantile(values, 0.9)}
            if values and values[0] >= 0 and values[-1] > 0 else {}
        )  # fmt: skip
    return found


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of rising values (at least one), interpolated between neighbours."""
    rank = share * (len(ordered) - 1)
    below = math.floor(rank)
    if below + 1 >= len(ordered):
        return float(ordered[-1])
    return float(ordered[below] + (ordered[below + 1] - ordered[below]) * (rank - below))
