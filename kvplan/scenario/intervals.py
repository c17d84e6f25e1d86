"""Intervals around predicted latencies, as a result holds them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

LARGEST_WORKLOAD = 20_000
"""Requests up to which an ensemble is simulated when asked for; they are kept in memory."""

Interval: TypeAlias = list[float]
"""Low and high, in seconds."""


class Intervals(NamedTuple):
    """``values``: latency to statistic to ``[low, high]`` seconds; None where the clock makes no claim."""

    values: dict[str, dict[str, Interval] | None] | None
    members: int
    source: str

    def to_dict(self) -> dict[str, Any]:
        """The part of a result's ``accuracy`` object that is about intervals."""
        return {"intervals": self.values, "ensemble": self.members, "intervals_source": self.source}


NO_CLAIM = Intervals(None, 0, "none: the clock makes no claim about its accuracy")
