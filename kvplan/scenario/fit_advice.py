"""What a fit to a serving run tells its reader: why a constant stays open, where to look if nothing fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kvplan.scenario.fit_constants import WHY
from kvplan.scenario.log_features import quantile

Z90 = 1.645
FARTHEST = 10.0
"""A factor by which a constant could be off, beyond which its size says nothing."""
POOR = 0.3
"""A median that is so far off after the fit says that the run or the scenario is another one."""


def unsure_why(name: str, deviation: float, prompts: Sequence[int]) -> str:
    """Why a run does not tell a constant, and by how much that could be off.

    Args:
        deviation: standard deviation of its logarithm.
        prompts: tokens of the run's prompts.
    """
    why = WHY[name].format(prompt=quantile(sorted(map(float, prompts)), 0.5))
    factor = math.exp(min(Z90 * deviation, 20.0))
    if factor > FARTHEST:
        return f"{why}; this run does not even tell its order of magnitude"
    return f"{why}; it could be off by a factor of {factor:.2g}"


def poor(after: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What to look at where the fitted clock does not describe the run it was fitted to."""
    off = {metric: errors["p50"] for metric, errors in after.items() if abs(errors["p50"]) > POOR}
    if not off:
        return []
    how = ", ".join(f"{metric.upper()} {error:+.0%}" for metric, error in off.items())
    text = (
        f"the fitted clock does not describe this run (median {how} on the held-out half): check that the "
        "scenario is the deployment that was measured, the unit of the arrival times, cached prompts, and "
        "whether the client limited requests in flight (--max-in-flight)"
    )
    return [text]
