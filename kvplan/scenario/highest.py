"""The highest value of one field at which every objective is met: how much load a deployment takes.

The search keeps a value that meets every objective and a higher one that does not, and tries values between
them, evenly in ratio, as many at a time as there are processes. What it tries is a sweep of one axis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kvplan.errors import AnswerIsNo, UsageError
from kvplan.scenario.axes import Axis
from kvplan.scenario.load import read_scenario, split_setting
from kvplan.scenario.schema import Scenario
from kvplan.scenario.sweep import Outcome, Sweep

PRECISION = 0.05
"""The search ends when the value that fails is at most so much above the one that passes."""
MOST_ROUNDS = 60

_NUMBER = r"\d{1,15}(?:\.\d{1,15})?(?:[eE][-+]?\d{1,2})?"
_BOUNDS = re.compile(rf"^({_NUMBER})\.\.({_NUMBER})$")


@dataclass(frozen=True, slots=True)
class Bounds:
    """A field, and where to look; ``whole``: whole numbers only."""

    key: str
    low: float
    high: float
    whole: bool

    def between(self, low: float, high: float, count: int) -> list[float]:
        """At most ``count`` values between two others, evenly in ratio; none where they are close enough."""
        if high <= low * (1.0 + PRECISION) or (self.whole and high - low <= 1):
            return []
        ratio = high / low
        found = [low * ratio ** (step / (count + 1)) for step in range(1, count + 1)]
        rounded = [round(value) if self.whole else float(f"{value:.3g}") for value in found]
        return sorted({value for value in rounded if low < value < high})


def parse_bounds(text: str) -> Bounds:
    """``workload.rate=0.5..64``.

    Raises:
        UsageError: anything else.
    """
    key, raw = split_setting(text)
    found = _BOUNDS.match(raw.strip())
    hint = "write it like --highest workload.rate=0.5..64"
    if not key or found is None:
        raise UsageError(f"cannot read --highest {text!r}", hint=hint)
    low, high = map(float, found.groups())
    if not 0.0 < low < high:
        raise UsageError(f"--highest {text!r} looks from {low:g} to {high:g}: above 0 and rising", hint=hint)
    whole = all(re.fullmatch(r"\d+", end) for end in found.groups()) and not key.endswith(_REAL)
    return Bounds(key, low, high, whole)


_REAL = ("rate", "rate_scale", "time_scale")
"""Fields of real numbers, however their bounds are written."""


class Search:
    """A search about to be made.

    Args:
        path: scenario file, ``-`` for standard input, or None when flags say everything.
        bounds: the field and where to look.
        flags: dotted key to value, for every point.
        assignments: ``a.b=value`` texts, for every point.
        count: how many requests to generate or, of a trace, to read.

    Raises:
        UsageError: no objective. KvplanError: what is wrong with every point alike.
    """

    def __init__(
        self,
        path: str | None,
        bounds: Bounds,
        *,
        flags: Mapping[str, Any] | None = None,
        assignments: Sequence[str] = (),
        count: int | None = None,
    ) -> None:
        self.bounds = bounds
        self.tried: dict[float, Outcome | None] = {}
        self._sweep = partial(
            Sweep, read_scenario(path), flags=flags, assignments=assignments, count=count,
            varied_by="--highest",
        )  # fmt: skip
        (first,) = self._planned([bounds.low]).scenarios
        assert isinstance(first, Scenario), "a sweep says at once what is wrong with its only point"
        if not any(value is not None for value in first.slo.model_dump().values()):
            raise UsageError(
                "nothing says what is good enough: the highest value is one that meets every objective",
                where="slo", hint="say for example --set slo.ttft_p99_s=1 --set slo.tpot_p99_s=0.05",
            )  # fmt: skip

    def _planned(self, values: Sequence[float]) -> Sweep:
        """A sweep of these values."""
        numbers = [int(value) if self.bounds.whole else value for value in values]
        return self._sweep([Axis(self.bounds.key, tuple(numbers), tuple(map(str, numbers)))])

    @property
    def passed(self) -> float | None:
        """The highest value that met every objective below all that did not."""
        missed = self.missed
        good = [v for v, outcome in self.tried.items() if _meets(outcome) and (missed is None or v < missed)]
        return max(good, default=None)

    @property
    def missed(self) -> float | None:
        """The lowest value that did not, or did not fit."""
        return min((v for v, out in self.tried.items() if _answers(out) and not _meets(out)), default=None)

    @property
    def met_above(self) -> float | None:
        """The lowest value above one that did not meet every objective that does: more is better there."""
        missed = self.missed
        good = [v for v, outcome in self.tried.items() if _meets(outcome)]
        return min((v for v in good if missed is not None and v > missed), default=None)

    def execute(self, jobs: int = 1, on_done: Callable[[int], None] | None = None) -> None:
        """Simulate until the answer is known to ``PRECISION``.

        Args:
            jobs: simulations at a time.
            on_done: called after each with how many are done.

        Raises:
            Interrupted: by the user; ``tried`` has what was done until then.
        """
        bounds = self.bounds
        values = [bounds.low, bounds.high]
        for _ in range(MOST_ROUNDS):
            if not self._try(values, jobs, on_done):
                return
            low, high = self.passed, self.missed
            if low is None or high is None:
                return
            values = bounds.between(low, high, jobs)
            if not values:
                return

    def _try(self, values: Sequence[float], jobs: int, on_done: Callable[[int], None] | None) -> bool:
        """Whether the search can go on: every point was simulated, or does not fit."""
        sweep = self._planned(values)
        before = len(self.tried)
        try:
            sweep.execute(jobs, None if on_done is None else lambda done: on_done(before + done))
        finally:
            found = dict(zip(values, sweep.outcomes, strict=True))
            self.tried |= {value: outcome for value, outcome in found.items() if outcome is not None}
        return all(map(_answers, found.values()))

    def sweep(self) -> Sweep:
        """Everything that was tried, as a sweep."""
        values = sorted(self.tried) or [self.bounds.low]
        whole = self._planned(values)
        whole.outcomes = [self.tried.get(value) for value in values]
        return whole

    def document(self, command: Sequence[str]) -> dict[str, Any]:
        """The ``kvplan.sweep/1`` document of what was tried, with the answer under ``highest``."""
        return self.sweep().document(command) | {
            "highest": {
                "key": self.bounds.key,
                "passed": self.passed,
                "missed": self.missed,
                "met_above": self.met_above,
            }
        }


def _answers(outcome: Outcome | None) -> bool:
    """Whether a point was simulated, or does not fit; what is wrong otherwise says nothing about its load."""
    if outcome is None:
        return False
    return outcome["error"] is None or outcome["error"]["exit_code"] == AnswerIsNo.exit_code


def _meets(outcome: Outcome | None) -> bool:
    """Whether a point met every objective and served every request."""
    figures = None if outcome is None else outcome["figures"]
    unserved = ("rejected", "timed_out", "unfinished")
    return bool(figures and figures["slo_met"] and not any(figures[name] for name in unserved))
