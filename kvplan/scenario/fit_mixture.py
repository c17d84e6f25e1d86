"""Whether a serving run is of two engines: times per token of two kinds, at loads that are alike.

A log may hold what two GPUs, versions or configurations served: replicas that differ, a restart in between.
The fit would describe neither. Held against one simulation, the times per token of a run are a multiple of it
that varies a little around one middle; of two engines they lie around two, with little in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from kvplan.scenario.fit_client import Pair

LEAST_TOKENS = 16
"""Of an answer: what fewer take depends on a stall or two."""
LEAST_REQUESTS = 40
APART = 4.0
"""Distance of the two middles in deviations of either kind. Of one normal distribution that is parted in two
it is 2.7, of an even one 3.5; of invented servers' runs that were not saturated at most 3.3."""
LEAST_RATIO = 1.15
LEAST_SHARE = 0.2
"""Of the rarer kind: fewer are outliers."""


class TwoKinds(NamedTuple):
    """How many times as long the slow ones take, their share, and their share in the run's first half."""

    ratio: float
    share: float
    early: float


def two_kinds(pairs: Sequence[Pair]) -> TwoKinds | None:
    """The two kinds of requests of a run; None where there is one.

    Args:
        pairs: the requests by arrival, simulated and measured; of a run that was not saturated.
    """
    import numpy as np

    found = [
        math.log(real.tpot_s / ours.tpot_s)
        for ours, real in pairs
        if real.output_tokens >= LEAST_TOKENS and ours.tpot_s and real.tpot_s
    ]
    if len(found) < LEAST_REQUESTS:
        return None
    ratios = np.sort(found)
    count, whole = len(ratios), float(ratios.sum())
    below = np.arange(1, count)
    sums = np.cumsum(ratios)[:-1]
    # The cut that leaves the least variance within both parts has the most between them.
    between = sums**2 / below + (whole - sums) ** 2 / (count - below)
    cut = int(np.argmax(between)) + 1
    fast, slow = ratios[:cut], ratios[cut:]
    away = float(slow.mean() - fast.mean())
    within = math.sqrt((float(fast.var()) + float(slow.var())) / 2.0)
    share = len(slow) / count
    if away < max(math.log(LEAST_RATIO), APART * within) or min(share, 1.0 - share) < LEAST_SHARE:
        return None
    half = found[: count // 2]
    early = sum(ratio > fast[-1] for ratio in half) / len(half)
    return TwoKinds(math.exp(away), share, early)
