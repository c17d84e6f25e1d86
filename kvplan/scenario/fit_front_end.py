"""How long a front end works on a request, from runs in which it kept up: by those sent close behind others.

A thread in front of the engine that takes 30 ms a request delays all alike while they come one by one, as
the network does; percentiles of TTFT do not tell the two apart, and at a higher rate the thread is full. But
who is sent 10 ms behind another waits 20 ms longer for it. So the runs are simulated with ever longer work of
that thread, the rest of the client's overhead shortened by as much, and the TTFT of single requests compared:
the work is that under which it differs least from what was measured, but for what is the same for all prompts
of a length.

How requests fall into steps changes with everything, so a difference counts only as far as it is not made of
a few requests that happened to be earlier or later. Where the server said what it took from scheduling each
request, that is left out of TTFT, and a difference counts as it is. What is usual decides the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kvplan.scenario.fit_constants import CLIENT, OUTSIDE, SERVER, Constant

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from kvplan.scenario.fit_run import FittedRun

    Array = npt.NDArray[np.float64]

STRIDE = 0.4
"""E-folds between one work and the next that is tried."""
BELOW = 3
"""Of them those below what is usual: shorter work delays nobody who is not sent in the same moment."""
AROUND = (1.0, 0.985, 0.97, 0.955)
"""Of the engine's constants, for simulations that are averaged: in each requests fall into other steps."""
CORRELATED = 3.0
"""Requests that are in the engine together are late together, and tell this much less than as many alone."""
SLOW = 0.2
"""Share of front ends that may be slow to any degree (assumed): chat templates, images, proxies in Python."""
LEAST_S = 1e-3
"""Of the overhead that is left beside the front end's work."""
_ROUNDS, _LEAST_OFF_S = 30, 1e-4


class FrontEnd(NamedTuple):
    """The work on a request, in seconds, and the standard deviation of its logarithm."""

    seconds: float
    deviation: float


def front_end(
    runs: Sequence[FittedRun], values: Mapping[str, float], server: Constant, client: Constant
) -> FrontEnd:
    """The front end's work on a request as the runs and what is usual have it.

    Args:
        runs: open loops that were not saturated, one at least.
        values: all constants, as percentiles have them.
        server, client: what is usual of the work, and of the rest of the overhead.
    """
    import numpy as np

    whole = values[CLIENT.name] + values[SERVER.name]
    most = min(whole, server.high)
    tried = [server.start * math.exp(STRIDE * step) for step in range(-BELOW, 60)]
    tried = [work_s for work_s in tried if server.low <= work_s <= most] or [most]
    usual = min(range(len(tried)), key=lambda index: abs(math.log(tried[index] / values[SERVER.name])))
    told = np.zeros(len(tried))
    for run in runs:
        off = [
            _unexplained(run, {**values, SERVER.name: work_s, CLIENT.name: max(whole - work_s, LEAST_S)})
            for work_s in tried
        ]
        scale_s = max(min(float(np.median(each)) for each in off), _LEAST_OFF_S)
        told += [_gain(off[usual] / scale_s, each / scale_s, by_steps=not run.timed) for each in off]
    logs = np.log(tried)
    rest = np.log(np.maximum(whole - np.array(tried), LEAST_S))
    told += np.log(_usual(logs - math.log(server.start), server))
    told -= ((rest - math.log(client.start)) / client.spread) ** 2 / 2
    weights = np.exp(told - told.max())
    weights /= weights.sum()
    middle = float(weights @ logs)
    # A grid does not tell less than half a stride apart.
    spread = math.hypot(math.sqrt(float(weights @ (logs - middle) ** 2)), STRIDE / 2)
    return FrontEnd(math.exp(middle), spread)


def _usual(away: Array, server: Constant) -> Array:
    """How likely a work is that is so many e-folds from the usual one, before anything was measured."""
    import numpy as np

    near = np.exp(-((away / server.spread) ** 2) / 2) / (server.spread * math.sqrt(math.tau))
    far = np.where(away >= 0.0, 1.0 / math.log(server.high / server.start), 0.0)
    return np.asarray((1.0 - SLOW) * near + SLOW * far)


def _unexplained(run: FittedRun, values: Mapping[str, float]) -> Array:
    """By how many seconds each request's TTFT differs from the simulated one, but for a line in its prompt.

    Few requests decide nothing, however far off they are: those that a step or a stall made late.
    """
    import numpy as np

    engine = [name for name in values if name not in OUTSIDE]
    around = [run.ways({**values, **{name: values[name] * factor for name in engine}}) for factor in AROUND]
    simulated = np.mean([[row.ttft_s for row, _ in pairs] for pairs in around], axis=0)
    late = np.array([real.ttft_s for _, real in around[0]]) - simulated
    prompts = np.array([float(row.prompt_tokens) for row, _ in around[0]])
    by = np.column_stack([np.ones(len(prompts)), prompts / max(prompts.max(), 1.0)])
    line = np.array([float(np.median(late)), 0.0])
    for _ in range(_ROUNDS):
        off = np.abs(late - by @ line)
        weighted = by.T / (1.0 + (off / max(float(np.median(off)), _LEAST_OFF_S)) ** 2)
        line = np.linalg.solve(weighted @ by + 1e-9 * np.eye(2), weighted @ late)
    return np.asarray(np.abs(late - by @ line))


def _gain(before: Array, after: Array, *, by_steps: bool = True) -> float:
    """By how much the logarithm of the likelihood grows from one simulation to another.

    For differences as a Cauchy distribution of scale 1 has them; where steps move requests (``by_steps``),
    never more than the sum's own uncertainty, from request to request, allows for, a deviation of which is
    chance.
    """
    import numpy as np

    gained = np.log1p(before**2) - np.log1p(after**2)
    whole, noise = float(gained.sum()), float(np.sqrt(np.sum(gained**2)))
    if not by_steps or not noise:
        return whole / CORRELATED
    sure = max(abs(whole) / noise - 1.0, 0.0) ** 2 / 2
    return math.copysign(min(abs(whole) / CORRELATED, sure), whole)
