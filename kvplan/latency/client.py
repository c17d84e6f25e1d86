"""What a client waits for beside the engine: the request's way in and the first token's way out.

A client's time to first token holds some milliseconds that no engine step explains: HTTP, tokenizing the
prompt, queues between processes, detokenizing. They are added to the reported TTFT and end-to-end time, once
a request, and to nothing else: the engine's clock and its decisions know nothing of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvplan.errors import SpecError
from kvplan.latency.assumption import Assumption

LOW_S, HIGH_S = 7e-3, 35e-3
"""Range seen between a client's TTFT and the engine's, on serving runs of several engines and models."""
DEFAULT_S = 15e-3
"""The middle of the range in ratio, to the millisecond."""
KEY = "client_overhead_s"
MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class ClientOverhead:
    """Seconds a request; ``low_s`` to ``high_s`` is where it lies nine times in ten."""

    seconds: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    given: bool = True

    def at(self, share: float) -> float:
        """The overhead at a share from 0 to 1 of the range, even in ratio: for members of an ensemble."""
        if self.high_s <= self.low_s:
            return self.seconds
        return float(self.low_s * (self.high_s / self.low_s) ** share)

    def assumption(self) -> Assumption:
        """How it is printed."""
        why = "added to TTFT and E2E as a client sees them: HTTP, tokenizing, detokenizing"
        if self.given:
            return Assumption(f"latency.{KEY}", self.seconds, f"{why}; given in the scenario")
        return Assumption(
            f"latency.{KEY}",
            self.seconds,
            f"{why}; {1e3 * LOW_S:g} to {1e3 * HIGH_S:g} ms on serving runs, 0 gives the engine's own times",
        )


NO_OVERHEAD = ClientOverhead()


def client_overhead(parameters: Mapping[str, Any]) -> tuple[ClientOverhead, dict[str, Any]]:
    """The overhead a ``latency`` section asks for, and the other parameters.

    Raises:
        SpecError: it is no number of seconds from 0 to 60.
    """
    rest = dict(parameters)
    if KEY not in rest:
        return ClientOverhead(DEFAULT_S, LOW_S, HIGH_S, given=False), rest
    value = rest.pop(KEY)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not 0 <= value <= MAX_S:
        raise SpecError(
            f"{KEY} must be a number of seconds from 0 to {MAX_S:g}, not {value!r}",
            where=f"latency.{KEY}",
            hint="0 leaves it out: times as the engine's own metrics have them",
        )
    return ClientOverhead(float(value), float(value), float(value)), rest
