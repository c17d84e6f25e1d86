"""Stalls of a serving run: some requests that wait far longer for their first token than any clock says.

Collections of garbage, connections being opened, graphs captured anew, a neighbour on the host: what holds up
whoever comes meanwhile has no part in a step's work, and does not grow with it. Percentiles of TTFT up to the
90th are what the constants were fitted to; the highest ones are compared here, with a share of the requests
delayed by up to some seconds (``kvplan.latency.client``). A share and seconds are kept only if the highest
percentiles are far from what was measured without and come much nearer with them, and only if such a delay is
longer than what lies between the median and the 99th percentile of the simulation: anything shorter may be a
queue. Halves of a run are not held against each other: stalls are few, and all may be in one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from kvplan.latency.client import ClientOverhead, moment
from kvplan.scenario.fit_client import Pair
from kvplan.scenario.log_features import quantile

LEVELS = (0.9, 0.925, 0.95, 0.965, 0.98, 0.99)
SHARES = (0.0075, 0.015, 0.03, 0.06)
"""More would not be stalls but how the engine works."""
SIZES = tuple(2.0 ** (step / 4) for step in range(-8, 21))
"""Of a stall, over the 99th percentile of the simulation."""
DRAWS = 8
"""Draws a request, so that what is compared is the distribution and not the luck of one."""
EXPECTED = 0.5
"""Of a run's stalls, how long those of another run of the same engine are: stalls are found in runs that have
many or long ones. With half as long ones the 99th percentile of TTFT of invented servers at other loads was
11 % off in the median and 79 % at most, with as long ones 45 and 228 %, without any 24 and 76 %."""
LEAST_APART, LEAST_GAIN = 0.1, 0.5
"""Logarithm by which the highest percentiles are off at least, and the share of it that stalls take away."""


def client_stalls(pairs: Sequence[Pair], client: ClientOverhead) -> tuple[float, float] | None:
    """(``client_stall_s``, ``client_stall_share``) of the nearest distribution; None where none is needed.

    Args:
        pairs: the requests: what the engine's part took, simulated, and what was measured.
        client: the overhead that was fitted.
    """
    run = _Compared(pairs, client)
    apart = run.distance(client)
    if apart < LEAST_APART:
        return None
    top, middle = (quantile(run.simulated, level) for level in (0.99, 0.5))
    choices = [
        replace(client, stall_s=factor * top, stall_share=share)
        for factor in SIZES for share in SHARES if factor * top > top - middle
    ]  # fmt: skip
    found = run.nearest(choices)
    if run.distance(found) > (1.0 - LEAST_GAIN) * apart:
        return None
    return float(f"{found.stall_s:.3g}"), found.stall_share


class _Compared:
    """The highest percentiles of TTFT, simulated and measured, as a function of the client's stalls."""

    def __init__(self, pairs: Sequence[Pair], client: ClientOverhead) -> None:
        still = replace(client, stall_s=0.0, stall_share=0.0)
        self._rows = [
            (moment("fit", name), row.ttft_s + still.of(name))
            for index, (row, _) in enumerate(pairs)
            for name in (f"{index}/{draw}" for draw in range(DRAWS))
        ]
        self.simulated = sorted(seconds for _, seconds in self._rows)
        self._real = sorted(real.ttft_s for _, real in pairs)

    def nearest(self, choices: Sequence[ClientOverhead]) -> ClientOverhead:
        """Of ``choices``."""
        return min(choices, key=self.distance)

    def distance(self, client: ClientOverhead) -> float:
        """Mean difference of the logarithms of ``LEVELS``."""
        ours = self.simulated
        if client.stall_share:
            ours = sorted(seconds + client.held_s(drawn) for drawn, seconds in self._rows)
        apart = [abs(math.log(quantile(ours, level) / quantile(self._real, level))) for level in LEVELS]
        return math.fsum(apart) / len(apart)
