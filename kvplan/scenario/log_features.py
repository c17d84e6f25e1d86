"""What two serving runs are compared by: percentiles of what requests saw, over all and by bins."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from kvplan.scenario.measured import Measured

METRICS = ("ttft", "tpot", "e2e")
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def features(rows: Sequence[Measured], real: Sequence[Measured], flight: Sequence[int]) -> list[float]:
    """Logarithms of what is compared; ``real`` and ``flight`` decide which request is in which bin."""
    found: list[float] = []
    for metric in METRICS:
        values = sorted(value for row in rows if (value := value_of(row, metric)) is not None)
        if values:
            # Of requests that come in waves percentiles jump from one wave to the next; their mean does not.
            found.append(math.log(max(math.fsum(values) / len(values), 1e-6)))
            found += [math.log(max(quantile(values, level), 1e-6)) for level in LEVELS]
    for metric, by in (("ttft", [row.prompt_tokens for row in real]), ("tpot", list(flight))):
        edges = [quantile(sorted(map(float, by)), share) for share in (1 / 3, 2 / 3)]
        for part in range(3):
            inside = [
                value for row, key in zip(rows, by, strict=True)
                if bisect_right(edges, key) == part and (value := value_of(row, metric)) is not None
            ]  # fmt: skip
            # All bins are there in both runs: which request is where depends on the measured one alone.
            if len(inside) >= 5:
                found.append(math.log(max(quantile(sorted(inside), 0.5), 1e-6)))
    return found


def in_flight(rows: Sequence[Measured]) -> list[int]:
    """Requests in flight in the middle of each request's life."""
    starts = sorted(row.arrival_s for row in rows)
    ends = sorted(row.arrival_s + row.e2e_s for row in rows)
    middles = [row.arrival_s + row.e2e_s / 2 for row in rows]
    return [bisect_right(starts, t) - bisect_right(ends, t) for t in middles]


def value_of(row: Measured, metric: str) -> float | None:
    """A request's ``metric`` in seconds; None where it has none."""
    return row.ttft_s if metric == "ttft" else row.e2e_s if metric == "e2e" else row.tpot_s


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
