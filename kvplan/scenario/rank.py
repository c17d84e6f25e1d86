"""In which order a plan has its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvplan.scenario.bracket import tightest


def rank(gpus: int, figures: Mapping[str, Any], number: int) -> tuple[float, ...]:
    """Cheapest first; then the fewest GPUs, the most headroom, the order in which they came.

    Headroom is what the objective nearest to its limit has left of it.
    """
    cost, objective = figures["cost_per_hour"], tightest(figures)
    used = 0.0 if objective is None else objective["value_s"] / objective["limit_s"]
    return (gpus if cost is None else cost, gpus, used, number)
