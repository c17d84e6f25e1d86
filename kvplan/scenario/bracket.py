"""A value that meets every objective and a higher one that does not, closing in on each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kvplan.errors import AnswerIsNo
from kvplan.scenario.figures import UNSERVED
from kvplan.scenario.outcomes import Outcome

PRECISION = 0.05
"""The search ends when the value that fails is at most so much above the one that passes."""
MOST_ROUNDS = 60
REACH = 1.1
"""Where all that was tried passes or none does, the next value is so many times farther off, and farther."""

Simulate = Callable[[Sequence[float]], Mapping[float, Outcome | None]]
"""Values to their outcomes; None where it was stopped before."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A field, and where to look; ``whole``: whole numbers only."""

    key: str
    low: float
    high: float
    whole: bool

    def between(self, low: float, high: float, count: int, precision: float = PRECISION) -> list[float]:
        """At most ``count`` values between two others, evenly in ratio; none where they are close enough."""
        if high <= low * (1.0 + precision) or (self.whole and high - low <= 1):
            return []
        ratio = high / low
        found = [low * ratio ** (step / (count + 1)) for step in range(1, count + 1)]
        return sorted({value for value in map(self.rounded, found) if low < value < high})

    def rounded(self, value: float) -> float:
        """A value as the field takes it, with as many digits as mean something."""
        return round(value) if self.whole else float(f"{value:.3g}")

    def within(self, value: float) -> float:
        """The nearest value to look at."""
        return min(max(self.rounded(value), self.low), self.high)


class Bracket:
    """What is known of one system, its workload and its clock.

    Args:
        bounds: where to look.
        simulate: tries values; raises what interrupts it.
        precision: as ``PRECISION``.
    """

    def __init__(self, bounds: Bounds, simulate: Simulate, precision: float = PRECISION) -> None:
        self.bounds, self.precision = bounds, precision
        self.tried: dict[float, Outcome | None] = {}
        self.closed = False
        """Whether the search came to its end."""
        self._simulate = simulate

    @property
    def passed(self) -> float | None:
        """The highest value that met every objective below all that did not."""
        missed = self.missed
        good = [v for v, outcome in self.tried.items() if meets(outcome) and (missed is None or v < missed)]
        return max(good, default=None)

    @property
    def missed(self) -> float | None:
        """The lowest value that did not, or did not fit."""
        return min((v for v, out in self.tried.items() if answers(out) and not meets(out)), default=None)

    @property
    def met_above(self) -> float | None:
        """The lowest value above one that did not meet every objective that does: more is better there."""
        missed = self.missed
        good = [v for v, outcome in self.tried.items() if meets(outcome)]
        return min((v for v in good if missed is not None and v > missed), default=None)

    def close_in(self, values: Sequence[float], jobs: int = 1) -> bool:
        """Try these values, then others around and between, until the answer is known to the precision.

        Returns whether it is: what is wrong with a point, other than that it does not fit, ends the search.
        """
        reach = REACH
        for _ in range(MOST_ROUNDS):
            found = self._simulate(values)
            self.tried |= {value: outcome for value, outcome in found.items() if outcome is not None}
            if not all(map(answers, found.values())):
                return False
            low, high = self.passed, self.missed
            if low is not None and high is not None:
                values = self.bounds.between(low, high, jobs, self.precision)
            else:
                values = self._beyond(low, high, reach)
                reach *= reach
            if not values:
                break
        self.closed = True
        return True

    def _beyond(self, passed: float | None, missed: float | None, reach: float) -> list[float]:
        """The next value where there is but one side of a bracket; none at the end of the bounds."""
        edge = passed if missed is None else missed
        if edge is None:
            return []
        value = self.bounds.within(edge * reach if missed is None else edge / reach)
        if self.bounds.whole and value == edge:
            value = self.bounds.within(edge + (1 if missed is None else -1))
        return [value] if value != edge else []


def answers(outcome: Outcome | None) -> bool:
    """Whether a point was simulated, or does not fit; what is wrong otherwise says nothing about its load."""
    if outcome is None:
        return False
    return outcome["error"] is None or outcome["error"]["exit_code"] == AnswerIsNo.exit_code


def meets(outcome: Outcome | None) -> bool:
    """Whether a point met every objective and served every request."""
    figures = None if outcome is None else outcome["figures"]
    return bool(figures and figures["slo_met"] and not any(figures[name] for name in UNSERVED))
