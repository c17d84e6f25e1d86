"""How many sequences of a length fit at once, read from the curves of a result."""

from __future__ import annotations

import math
from itertools import pairwise

from kvplan.reporting.result import Result
from kvplan.reporting.schema.hardware import CapacityCurve


def fits_at(curve: CapacityCurve, tokens: float) -> float:
    """Sequences of that many tokens that fit at once, between the curve's points by powers of the length.

    Outside of them as many as the same number of tokens make.
    """
    points = sorted((p.context_tokens, p.max_concurrency) for p in curve.points if p.max_concurrency > 0)
    if not points or tokens <= 0:
        return 0.0
    for (low, many), (high, few) in pairwise(points):
        if low <= tokens <= high:
            share = math.log(tokens / low) / math.log(high / low) if high > low else 0.0
            return float(many * (few / many) ** share)
    nearest, held = points[0] if tokens < points[0][0] else points[-1]
    return held * nearest / tokens


def given_share(result: Result) -> float:
    """Size of the pool that was given over that of the bill; 1 where none was given."""
    bill, cache = result.memory, result.scenario.get("cache")
    given = cache.get("blocks") if isinstance(cache, dict) else None
    if bill is None or not isinstance(given, int) or not bill.num_blocks:
        return 1.0
    return result.pool.num_blocks / (bill.num_blocks * replicas_of(result))


def replicas_of(result: Result) -> int:
    """Replicas that share the requests."""
    parallel = result.scenario.get("parallel")
    replicas = parallel.get("replicas") if isinstance(parallel, dict) else None
    return replicas if isinstance(replicas, int) and replicas > 0 else 1


def holds_one(result: Result) -> bool:
    """Whether one replica has room for one of the longest requests: halves of two replicas do not add up."""
    held = result.memory.max_concurrency if result.memory and result.memory.max_concurrency else 0.0
    return held >= replicas_of(result)
