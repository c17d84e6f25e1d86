"""How far a fitted clock is off in parts of its run: early and late, few and many requests, short prompts.

Percentiles over all may agree where a clock is too fast for half of the requests and too slow for the rest:
steps that grow otherwise with their requests, prompts of which a part was cached and nobody said so, an
engine that became slower. At another load or mix what cancelled does not. So medians are compared in thirds
of the requests by each of these, beyond what so few leave open, and the farthest widens the bands.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from kvplan.scenario.fit_client import Pair
from kvplan.scenario.log_features import METRICS, value_of

PARTS, FEWEST = 3, 15
"""Parts by each property, and requests that one has at least."""
SURE = 1.645
"""Deviations of a difference of medians that are taken for chance."""


def misfit(pairs: Sequence[Pair], flight: Sequence[float]) -> dict[str, float]:
    """Of each metric the share by which its median is off in the part where that is farthest off.

    Args:
        pairs: requests by arrival, as their clients saw them simulated and measured.
        flight: how many were in flight with each.
    """
    keys = (range(len(pairs)), flight, [real.prompt_tokens for _, real in pairs])
    found = {}
    for metric in METRICS:
        most = 0.0
        for key in keys:
            told = [
                (ours, theirs)
                for _, pair in sorted(zip(key, pairs, strict=True), key=lambda each: each[0])
                if (ours := value_of(pair[0], metric)) and (theirs := value_of(pair[1], metric))
            ]
            for part in range(PARTS):
                inside = told[len(told) * part // PARTS : len(told) * (part + 1) // PARTS]
                most = max(most, _off(inside)) if len(inside) >= FEWEST else most
        found[metric] = float(f"{math.expm1(most):.4g}")
    return found


def _off(pairs: Sequence[tuple[float, float]]) -> float:
    """How far apart two medians surely are, as a logarithm."""
    ours, theirs = ([math.log(each) for each in side] for side in zip(*pairs, strict=True))
    noise = math.hypot(*(1.2533 * statistics.pstdev(side) / math.sqrt(len(side)) for side in (ours, theirs)))
    # Both are of the same requests: what differs from one to the other differs in both.
    noise = min(
        noise,
        1.2533 * statistics.pstdev([a - b for a, b in zip(ours, theirs, strict=True)]) / math.sqrt(len(ours)),
    )
    return max(abs(statistics.median(ours) - statistics.median(theirs)) - SURE * noise, 0.0)
