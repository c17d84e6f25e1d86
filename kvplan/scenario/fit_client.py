"""How much clients' times outside the engine differ from request to request: found from a run's TTFT.

The fit (``kvplan.scenario.engine_fit``) looks at percentiles up to the 90th, which a constant overhead can
match; whoever asks for the 99th wants to know how far single requests are from it.

With the engine's part simulated, the overhead's spread is that with which the percentiles of TTFT are as far
from the median as they were measured to be: distributions are compared, not request by request, as the run
and its replay are at different moments of a step when a request comes. It is kept only if what one half of
the requests says helps with the other half, and not looked for where the engine's part of TTFT differs far
more from request to request: what the simulation lacks of that would be called the client's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from kvplan.latency.client import ClientOverhead, drawn
from kvplan.scenario.log_features import quantile
from kvplan.scenario.measured import Measured

Pair = tuple[Measured, Measured]
"""Of a request what the engine's part took, simulated, and what its client saw."""
SPREADS = tuple(0.05 * step for step in range(1, 31))
LEVELS = tuple(level / 40 for level in range(1, 38))
DRAWS = 6
"""Draws a request, so that what is compared is the distribution and not the luck of one."""
MOST_INSIDE = 3.0
"""Overheads from the 10th to the 90th percentile of the engine's part, up to which a spread shows."""
LEAST_GAIN = 0.1
"""Share of the distance to the measured percentiles that a spread must take away."""


def client_spread(pairs: Sequence[Pair], client: ClientOverhead) -> float | None:
    """``client.spread`` of the nearest distribution; None where a constant overhead does as well.

    Args:
        pairs: the requests.
        client: the overhead that was fitted.
    """
    inside = sorted(row.ttft_s for row, _ in pairs)
    if quantile(inside, 0.9) - quantile(inside, 0.1) > MOST_INSIDE * client.seconds:
        return None
    whole, halves = _Compared(pairs), [_Compared(pairs[first::2]) for first in (0, 1)]
    choices = [replace(client, spread=spread) for spread in SPREADS]
    before = after = 0.0
    for ours, theirs in (halves, reversed(halves)):
        before += theirs.distance(client)
        after += theirs.distance(ours.nearest(choices))
    if after >= (1.0 - LEAST_GAIN) * before:
        return None
    return float(f"{whole.nearest(choices).spread:.3g}")


class _Compared:
    """Simulated and measured percentiles of TTFT, as a function of the client's overhead."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._rows = [
            (row.ttft_s, drawn("fit", f"{index}/{draw}"))
            for index, (row, _) in enumerate(pairs)
            for draw in range(DRAWS)
        ]
        self._real = sorted(real.ttft_s for _, real in pairs)

    def nearest(self, choices: Sequence[ClientOverhead]) -> ClientOverhead:
        """Of ``choices``."""
        return min(choices, key=lambda client: self.distance(client))

    def distance(self, client: ClientOverhead) -> float:
        """Mean difference, in seconds, of what lies between the median and each of ``LEVELS``."""
        seconds, spread = client.seconds, client.spread
        ours = sorted(inside_s + seconds * math.exp(spread * normal) for inside_s, normal in self._rows)
        shift = quantile(ours, 0.5) - quantile(self._real, 0.5)
        apart = [abs(quantile(ours, level) - quantile(self._real, level) - shift) for level in LEVELS]
        return math.fsum(apart) / len(apart)
