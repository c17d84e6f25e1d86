"""Whether runs show a front end that takes time to hand tokens out (``kvplan.engine.streaming``).

Most runs do not: a few requests in flight are handed their tokens within a step, and what that adds to a
first token looks like the network. Where it shows, tokens of many streams wait for one another, and
requests behind them. So the work on a chunk is nothing unless runs say otherwise: with every other constant
free to follow, as the last regression of the fit has them, percentiles must come much nearer to the
measured ones with such work than without, and those of the requests that were held out, too, once all
constants were looked for again. What is not refuted either is told: up to which work, and so how many
streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from kvplan.scenario.fit_constants import CHUNK, Constant
from kvplan.scenario.fit_end import CORRELATED, LEAST_NOISE, LOSS_SCALE, End, end_of
from kvplan.scenario.log_features import quantile
from kvplan.scenario.search import robust_step

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from kvplan.scenario.fit_run import FittedRun

    Array = npt.NDArray[np.float64]

TRIED = tuple(CHUNK.start * 2.0**step for step in range(-2, 5))
"""Seconds a chunk: from what hundreds of streams hardly show to a proxy in Python that looks into each."""
AROUND = (1.0, 0.98)
"""Of the engine's constants, for simulations that are averaged: in each requests fall into other steps."""
SHOWN, REFUTED = 0.5, 3.0
"""By how much the logarithm of the likelihood grows where it is worth a fit of its own, and falls where
such work is refuted: what stays unexplained without it counts as noise of the former."""
BETTER, KNOWN = 0.15, 0.7
"""Share of what held-out requests are off that it must take away, and the deviation of its logarithm, from
the run alone, within which it must be known: what is only usual is not added."""
APART = 2.0
"""Times as many requests in flight, in the median, in one run as in another: at one load a few slow requests
are as good an explanation."""
SPLIT = 0.2
"""Deviation of its logarithm beside what runs leave open: how work is divided between chunks and outputs is
assumed (from none on outputs to most of it)."""
REACH = 1.5
"""E-folds by which the linear picture may move a constant."""


class Streams(NamedTuple):
    """What runs say of the work on a chunk.

    Attributes:
        likely_s: seconds with which they are likeliest; 0 where it is hardly more so than without.
        most_s: the longest that was tried and is not refuted.
    """

    likely_s: float
    most_s: float


def streamed(
    runs: Sequence[FittedRun],
    first: End,
    end: End,
    free: Sequence[Constant],
    start: Mapping[str, float],
    tell: Callable[[str], None],
) -> tuple[End | None, Streams]:
    """Where a fit comes to with such work, None if runs do not show it, and what they say of it.

    Args:
        runs: what was fitted; they stay weighed for the end that is kept.
        first: of the fit without, by percentiles alone.
        end: of the fit without, by all that is known: single requests may find a front end that is slow with
            each request where it is slow with each chunk.
        free: the constants that were fitted.
        start: where their search begins.
        tell: told of every round.
    """
    import numpy as np

    def residual(values: Mapping[str, float]) -> Array:
        return np.concatenate([each.residual(values) for each in runs])

    def weigh(values: Mapping[str, float]) -> None:
        for each in runs:
            each.weigh(values)

    weigh(first.values)
    told = streams_told(first, free, residual)
    if not told.likely_s or not _apart(runs):
        weigh(end.values)
        return None, told._replace(likely_s=0.0)
    tell("once more, with a front end that takes time to hand tokens out")
    begin = {**start, CHUNK.name: told.likely_s}
    other = end_of([*free, CHUNK], begin, residual, weigh, tell)
    *offs, left = (sum(loss(run.held_out(each.values)) for run in runs) for each in (first, end, other))
    if left > (1.0 - BETTER) * min(offs) or other.alone[CHUNK.name] > KNOWN:
        weigh(end.values)
        return None, told._replace(likely_s=0.0)
    deviations, alone = (
        {**known, CHUNK.name: math.hypot(known[CHUNK.name], SPLIT)}
        for known in (other.deviations, other.alone)
    )
    return replace(other, deviations=deviations, alone=alone), told


def _apart(runs: Sequence[FittedRun]) -> bool:
    """Whether the runs are of loads that differ."""
    flights = [quantile(sorted(run.flight), 0.5) for run in runs]
    return max(flights) >= APART * min(flights)


def streams_told(
    end: End,
    free: Sequence[Constant],
    residual: Callable[[Mapping[str, float]], Array],
) -> Streams:
    """What the runs say, by the linear picture of where the fit ended.

    Args:
        end: of the fit without such work.
        free: the constants that were fitted.
        residual: see ``kvplan.scenario.fit_end``.
    """
    import numpy as np

    slopes = np.array(end.slopes)
    point = np.log([end.values[c.name] for c in free])
    low, high = np.log([c.low for c in free]) - point, np.log([c.high for c in free]) - point
    scale_of = max(end.noise, LEAST_NOISE) * CORRELATED
    pull = (scale_of / np.array([c.spread for c in free])) ** 2

    def off(chunk_s: float) -> float:
        """How unlikely the runs are with such work, the other constants having followed."""
        values = {**end.values, CHUNK.name: chunk_s}
        at = np.mean([residual({**values, **_slower(values, free, factor)}) for factor in AROUND], axis=0)
        if at.size != slopes.shape[0]:
            return np.inf
        move = robust_step(
            at,
            slopes,
            np.maximum(low, -REACH),
            np.minimum(high, REACH),
            LOSS_SCALE,
            pull,
            np.zeros(point.size),
        )
        return loss(at + slopes @ move) / scale_of**2

    without = off(0.0)
    gains = [without - off(chunk_s) for chunk_s in TRIED]
    best = max(range(len(TRIED)), key=lambda index: gains[index])
    kept = [
        chunk_s for chunk_s, gain in zip(TRIED, gains, strict=True) if gain > max(gains[best], 0.0) - SHOWN
    ]
    return Streams(TRIED[best] if gains[best] >= SHOWN else 0.0, max(kept, default=0.0))


def _slower(values: Mapping[str, float], free: Sequence[Constant], factor: float) -> dict[str, float]:
    return {c.name: values[c.name] * factor for c in free if c.name in ("step_s", "request_s")}


def loss(residual: Array) -> float:
    """Half the sum of squares, of outliers less."""
    import numpy as np

    return float(LOSS_SCALE**2 * np.sum(np.sqrt(1.0 + (residual / LOSS_SCALE) ** 2) - 1.0))
