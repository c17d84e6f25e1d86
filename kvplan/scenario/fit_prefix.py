"""Whether prompts began with tokens that the engine had in its cache and the log does not tell of.

A system prompt that all requests share is computed once. What steps with a prompt take beyond decoding then
grows with the prompt's tokens as it should, but from a length on that is not nothing. A line through the
steps that clients saw by themselves (``kvplan.scenario.fit_steps``) says from which; a line through what the
clock says of the same steps begins a little beyond nothing, too, as a few tokens ride along with the weights.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from kvplan.engine.protocols import LatencyModel, StepBatch
from kvplan.scenario.fit_steps import AlikeSteps, decoding

FEWEST = 32
"""Steps with a prompt below which no line is drawn."""
SHORT = 128
"""Tokens up to which computing a prompt takes no longer than reading the weights."""
LEAST, SHARE = 256, 0.1
"""Tokens, and share of the median prompt, from which cached ones are worth a word."""


def untold_prefix(alike: Sequence[AlikeSteps], clock: LatencyModel) -> int:
    """Tokens at the beginning of each prompt that seem to have been cached; 0: none.

    Args:
        alike: steps that were seen, of prompts of which the log does not say what was cached.
        clock: that decodes as they did.
    """
    told = [
        (float(step.prefill_chunks[0][1]), seen)
        for group in alike
        for seen in group.steps
        for step in seen.steps
        if step.prefill_chunks and step.prefill_chunks[0][1] > SHORT
    ]
    if len(told) < FEWEST:
        return 0
    decode_s = [clock.step_seconds(_beside(seen.steps)) for _, seen in told]
    whole_s = [math.fsum(map(clock.step_seconds, seen.steps)) for _, seen in told]
    origins = [
        _origin(
            [(tokens, took - beside) for (tokens, _), took, beside in zip(told, all_s, decode_s, strict=True)]
        )
        for all_s in ([seen.seconds for _, seen in told], whole_s)
    ]
    real, simulated = origins
    if real is None or simulated is None:
        return 0
    cached = real - max(simulated, 0.0)
    return round(cached) if cached >= max(LEAST, SHARE * statistics.median(each for each, _ in told)) else 0


def _origin(points: Sequence[tuple[float, float]]) -> float | None:
    """Tokens at which a line through (tokens, seconds) is at nothing; None where it does not rise."""
    ordered = sorted(points)
    third = len(ordered) // 3
    low, middle, high = (
        tuple(statistics.median(each) for each in zip(*part, strict=True))
        for part in (ordered[:third], ordered[third:-third], ordered[-third:])
    )
    slope = min((b[1] - a[1]) / max(b[0] - a[0], 1.0) for a, b in ((low, middle), (low, high)))
    return low[0] - low[1] / slope if slope > 0.0 else None


def _beside(steps: Sequence[StepBatch]) -> StepBatch:
    """What was decoded beside the prompt."""
    most = max(steps, key=lambda step: step.decode_requests)
    return decoding(most.decode_requests, most.decode_kv_tokens)


def prefix_left(tokens: int) -> str:
    """What to say of it."""
    return (
        f"steps with a prompt take as long as if the first {tokens:,} tokens of each or more were cached: if "
        "prompts share a system prompt, say what was cached (a column cached_tokens); until then this fit "
        "holds for such prompts alone"
    )
