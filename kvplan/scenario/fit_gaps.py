"""Gaps between tokens of a whole run, where nobody knows what was done in each.

Benchmarks that say how long every token took, and not when requests were sent, leave open who else was
there. What is compared then is how gaps are distributed: most are steps that decode, the longest those with
prompts. The simulated ones are heard from the clock: a step that decodes is a gap for every request it
decodes, and one of prompts alone makes the next gap of those longer that decoded before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvplan.engine.protocols import LatencyModel, StepBatch
from kvplan.scenario.log_features import quantile
from kvplan.scenario.measured import Measured

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.96)


class HeardGaps:
    """A latency model that answers as ``model`` does, and counts the gaps that its steps are.

    Attributes:
        unheard: ``model``, for whoever asks what a step would take that is not taken.
    """

    def __init__(self, model: LatencyModel) -> None:
        self.unheard = model
        seconds: list[float] = []
        requests: list[int] = []
        self._seconds, self._requests = seconds, requests
        answer, waited, before = model.step_seconds, 0.0, 0

        def step_seconds(batch: StepBatch) -> float:
            nonlocal waited, before
            took, decoded = answer(batch), batch.decode_requests
            if not decoded:
                waited += took if before else 0.0
                before = before if batch.prefill_chunks else 0
                return took
            held = min(before, decoded) if waited else 0
            if held:
                seconds.append(waited + took)
                requests.append(held)
            seconds.append(took)
            requests.append(decoded - held)
            waited, before = 0.0, decoded
            return took

        self.step_seconds = step_seconds

    def logs(self) -> list[float]:
        """Logarithms of the gaps of which shares of ``LEVELS`` are shorter; none where nobody decoded."""
        import numpy as np

        if not self._seconds:
            return []
        seconds, requests = np.array(self._seconds), np.array(self._requests, dtype=float)
        order = np.argsort(seconds)
        below = (np.cumsum(requests[order]) - requests[order] / 2.0) / requests.sum()
        return [math.log(max(float(np.interp(level, below, seconds[order])), 1e-6)) for level in LEVELS]


def gap_logs(rows: Sequence[Measured]) -> list[float]:
    """The same of what clients saw; none where the log does not say."""
    gaps = sorted(gap for row in rows for gap in row.gaps)
    return [math.log(max(quantile(gaps, level), 1e-6)) for level in LEVELS] if gaps else []
