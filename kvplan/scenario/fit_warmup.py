"""How long a run took to warm up: requests at its beginning whose tokens take longer than the load explains.

Kernels that are compiled or tuned on their first shapes, graphs that are captured, clocks and caches that are
cold slow an engine for some seconds, and what was served then is no guide to what it does later. Held against
a simulation of the run, the times per token of its second half are around a multiple of the simulated ones.
Where those of the first requests are above that, one after the other, up to some moment and not beyond it,
they are warming up: they are replayed with the others, which they held up, and not compared. An engine that
is slower for half a run is not warming up: it is another one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from kvplan.scenario.fit_client import Pair

LEAST_TOKENS = 8
"""Of an answer: fewer say little of a step."""
FEWEST = 60
"""Requests of a run below which its beginning is not looked at."""
WINDOW = 8
"""Requests whose median decides, one window after the other."""
SLOWER, SURE = math.log(1.12), 3.0
"""How much slower they are at least, and in deviations of the median of so many later requests."""
MOST = 0.4
"""Share of the requests that may be warming up."""
LEFT = 0.5
"""Of how much slower the warm ones are, what later requests are at most: else the run only drifts."""


def warming_up(pairs: Sequence[Pair]) -> int:
    """How many requests at the beginning of a run were served by an engine that was warming up.

    Args:
        pairs: the requests by arrival, simulated and measured.
    """
    told = [
        (index, math.log(real.tpot_s / ours.tpot_s))
        for index, (ours, real) in enumerate(pairs)
        if real.output_tokens >= LEAST_TOKENS and ours.tpot_s and real.tpot_s
    ]
    if len(told) < FEWEST:
        return 0
    ratios = [ratio for _, ratio in told]
    later = ratios[len(told) // 2 :]
    usual = statistics.median(later)
    deviation = 1.4826 * statistics.median(abs(ratio - usual) for ratio in later)
    limit = usual + max(SLOWER, SURE * 1.25 * deviation / math.sqrt(WINDOW))
    slow = 0
    while slow < len(told) and statistics.median(ratios[slow : slow + WINDOW]) > limit:
        slow += 1
    # The middle of the last slow window is the last request that surely was slow.
    end = slow + WINDOW // 2
    if not slow or end > MOST * len(told):
        return 0
    above = statistics.median(ratios[:slow]) - usual
    after = statistics.median(ratios[end : end + 2 * WINDOW]) - usual
    return told[end][0] if after < LEFT * above else 0
