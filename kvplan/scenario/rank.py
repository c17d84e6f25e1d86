"""Which objective is nearest to its limit, and in which order a plan has its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tightest(figures: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The objective that is missed by most, or nearest to its limit; None where none has a value."""
    known = [item for item in figures["objectives"] if item["value_s"] is not None]
    return max(known, key=lambda item: item["value_s"] / item["limit_s"], default=None)


def rank(gpus: int, figures: Mapping[str, Any], number: int) -> tuple[float, ...]:
    """Cheapest first; then the fewest GPUs, the most headroom, the order in which they came.

    Headroom is what the objective nearest to its limit has left of it.
    """
    cost, objective = figures["cost_per_hour"], tightest(figures)
    used = 0.0 if objective is None else objective["value_s"] / objective["limit_s"]
    return (gpus if cost is None else cost, gpus, used, number)
