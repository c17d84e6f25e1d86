"""The highest value of one field at which every objective is met: how much load a deployment takes.

The search keeps a value that meets every objective and a higher one that does not, and tries values between
them, evenly in ratio, as many at a time as there are processes. What it tries is a sweep of one axis.

A run may be too short to show what a load does (``kvplan.scenario.settling``), or shorter than the load: of a
thousand requests never two thousand are in flight. A synthetic workload is then made longer and the answer
sought again around the one before, until the run is long enough and twice as many requests hardly move the
answer. Last, the same is sought with every step as much slower and faster as the clock's band says, which
gives the answer an interval.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from kvplan.errors import TooFewRequests, UsageError
from kvplan.scenario.axes import Axis
from kvplan.scenario.bracket import PRECISION, Bounds, Bracket
from kvplan.scenario.load import read_scenario, split_setting
from kvplan.scenario.outcomes import Outcome
from kvplan.scenario.rank import tightest
from kvplan.scenario.schema import Scenario
from kvplan.scenario.settling import TAIL, longer, most_requests, settled, tail
from kvplan.scenario.sweep import Sweep
from kvplan.scenario.workload import DEFAULT_REQUESTS

COARSE = 0.12
"""Precision of the ends of the answer's interval: a step of ``REACH`` from a value is enough."""
REQUESTS = "workload.requests"

_NUMBER = r"\d{1,15}(?:\.\d{1,15})?(?:[eE][-+]?\d{1,2})?"
_BOUNDS = re.compile(rf"^({_NUMBER})\.\.({_NUMBER})$")


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
        longest: requests up to which a synthetic workload is made longer; None: as ``most_requests`` has it.

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
        longest: int | None = None,
    ) -> None:
        self.bounds = bounds
        self._sweep = partial(
            Sweep, read_scenario(path), flags=flags, assignments=assignments, varied_by="--highest"
        )
        self._count = count
        lowest = self._planned([bounds.low], None)
        lowest.check_rate()
        self.scenarios = lowest.scenarios
        """The scenario at the low end: the others differ in the load alone."""
        (first,) = self.scenarios
        assert isinstance(first, Scenario), "a sweep says at once what is wrong with its only point"
        if not first.slo.limits:
            raise UsageError(
                "nothing says what is good enough: the highest value is one that meets every objective",
                where="slo", hint="say for example --set slo.ttft_p99_s=1 --set slo.tpot_p99_s=0.05",
            )  # fmt: skip
        workload = first.workload
        self._pools = first.disaggregation is not None
        self._stretches = workload.synthesize is not None and bounds.key != REQUESTS
        begin = workload.requests or DEFAULT_REQUESTS
        self._longest = most_requests(begin, longest)
        self.lengths: list[tuple[int | None, Bracket]] = []
        """How many requests, None where nobody chose it, and what was found with them."""
        self._lengthen(begin if self._stretches else None)
        self.range: dict[str, float | None] | None = None
        """The answer with every step slower and faster by the clock's band; None without such a claim."""
        self._done, self._over = 0, False
        self._jobs = 1
        self._tell: Callable[[int], None] = _nobody

    def _planned(self, values: Sequence[float], requests: int | None, slower: float = 1.0) -> Sweep:
        """A sweep of these values."""
        numbers = [int(value) if self.bounds.whole else value for value in values]
        axis = Axis(self.bounds.key, tuple(numbers), tuple(map(str, numbers)))
        return self._sweep([axis], count=requests or self._count, slower=slower)

    def _lengthen(self, requests: int | None) -> None:
        self.lengths.append((requests, Bracket(self.bounds, partial(self._try, requests=requests))))

    @property
    def _answer(self) -> tuple[int | None, Bracket]:
        """The longest search that came to its end, or the first one."""
        return next((item for item in reversed(self.lengths) if item[1].closed), self.lengths[0])

    @property
    def bracket(self) -> Bracket:
        """What the answer rests on."""
        return self._answer[1]

    @property
    def tried(self) -> dict[float, Outcome | None]:
        """What was simulated with as many requests as the answer rests on."""
        return self.bracket.tried

    @property
    def passed(self) -> float | None:
        """The answer: the highest value that met every objective below all that did not."""
        return self.bracket.passed

    @property
    def missed(self) -> float | None:
        """The lowest value that did not, or did not fit."""
        return self.bracket.missed

    @property
    def met_above(self) -> float | None:
        """The lowest value above one that did not meet every objective that does: more is better there."""
        return self.bracket.met_above

    def execute(self, jobs: int = 1, on_done: Callable[[int], None] | None = None) -> None:
        """Simulate until the answer is known to ``PRECISION``, and holds with more requests.

        Args:
            jobs: simulations at a time.
            on_done: called after each with how many are done.

        Raises:
            Interrupted: by the user; ``lengths`` has what was done until then.
        """
        self._jobs, self._tell = jobs, on_done or _nobody
        values = [self.bounds.low, self.bounds.high]
        while True:
            bracket = self.lengths[-1][1]
            if bracket.close_in(values, jobs):
                requests = self._more()
                if requests is None:
                    self.range = self._range()
                    break
                values = [value for value in (bracket.passed, bracket.missed) if value is not None]
            else:
                requests = self._enough()
                if requests is None:
                    break
                self.lengths.pop()  # what fewer would have done says nothing of these loads
            self._lengthen(requests)
        self._over = True

    def _try(
        self, values: Sequence[float], requests: int | None, slower: float = 1.0
    ) -> dict[float, Outcome | None]:
        sweep = self._planned(values, requests, slower)
        before = self._done
        try:
            sweep.execute(self._jobs, lambda done: self._tell(before + done))
        finally:
            found = dict(zip(values, sweep.outcomes, strict=True))
            self._done += sum(outcome is not None for outcome in found.values())
            if not sweep.complete:  # interrupted: nobody else will keep them
                self.lengths[-1][1].tried |= {v: out for v, out in found.items() if out and slower == 1.0}
        return found

    def _figures(self) -> Mapping[str, Any] | None:
        """Of the point at the answer."""
        outcome = None if self.passed is None else self.tried[self.passed]
        return None if outcome is None else outcome["figures"]

    def _more(self) -> int | None:
        """How many requests to try next; None where the answer stands, or more are not to be had."""
        requests, figures = self._answer[0], self._figures()
        if not self._stretches or requests is None or figures is None:
            return None
        if self.settled and len(self.lengths) > 1 and tail(figures) >= TAIL:
            return None
        return longer(figures, requests, self._longest)

    def _enough(self) -> int | None:
        """How many requests to try where there were fewer than a load takes; None where more do not help."""
        requests, bracket = self.lengths[-1]
        errors = [outcome["error"] for outcome in bracket.tried.values() if outcome is not None]
        if requests is None or not any(error and error["code"] == TooFewRequests.code for error in errors):
            return None
        return next((times * requests for times in (4, 2) if times * requests <= self._longest), None)

    @property
    def settled(self) -> bool | None:
        """Whether the run was long enough, and its answer that of the run before; None without an answer."""
        figures = self._figures()
        if figures is None or self.passed is None:
            return None
        before = [bracket.passed for _, bracket in self.lengths[: self.lengths.index(self._answer)]][-1:]
        least = max(PRECISION * self.passed, float(self.bounds.whole))
        moved = any(value is not None and abs(self.passed - value) > least for value in before)
        return bool(settled(figures)) and not moved

    @property
    def binding(self) -> str | None:
        """The objective that a little more would miss, or the one closest to its limit."""
        outcome = None if self.missed is None else self.tried[self.missed]
        beyond = None if outcome is None else outcome["figures"]
        figures = beyond if beyond is not None and not beyond["slo_met"] else self._figures()
        found = None if figures is None else tightest(figures)
        return None if found is None else str(found["name"])

    def _range(self) -> dict[str, float | None] | None:
        """Both ends of the answer's interval; none where the run was too short to tell the answer.

        The band is that of the latency that binds. Pools may have clocks of their own, which are not slowed.
        """
        figures, passed = self._figures(), self.passed
        if figures is None or passed is None or self._pools or not self.settled:
            return None
        band = next(o["band"] for o in figures["objectives"] if o["name"] == self.binding)
        if band is None:
            return None
        ends: dict[str, float | None] = {"faster": 1.0 + band[0], "slower": 1.0 + band[1]}
        for end, factor in (("low", 1.0 + band[1]), ("high", 1.0 + band[0])):
            simulate = partial(self._try, requests=self._answer[0], slower=factor)
            bracket = Bracket(self.bounds, simulate, COARSE)
            # Where time itself passes so much slower, so much less load comes.
            if not bracket.close_in([self.bounds.within(passed / factor)], 1):
                return None
            ends[end] = bracket.passed
        low, high = ends["low"], ends["high"]
        return ends | {
            "low": None if low is None else min(low, passed),
            "high": passed if high is None else max(high, passed),
        }

    def _tried_sweep(self, requests: int | None, bracket: Bracket) -> Sweep:
        values = sorted(bracket.tried) or [self.bounds.low]
        whole = self._planned(values, requests)
        whole.outcomes = [bracket.tried.get(value) for value in values]
        return whole

    def sweep(self) -> Sweep:
        """What the answer rests on, as a sweep."""
        return self._tried_sweep(*self._answer)

    def document(self, command: Sequence[str]) -> dict[str, Any]:
        """The ``kvplan.sweep/1`` document of what was tried, with the answer under ``highest``.

        Runs of several lengths are points of two axes; not every combination was simulated.
        """
        requests, bracket = self._answer
        made = [
            (length, self._tried_sweep(length, tries).document(command))
            for length, tries in self.lengths
            if tries.tried or len(self.lengths) == 1
        ]
        whole = made[0][1]
        if len(made) > 1:
            points = [
                {**point, "values": {REQUESTS: length, **point["values"]}}
                for length, document in made
                for point in document["points"]
            ]
            values = sorted({value for _, document in made for value in document["axes"][0]["values"]})
            whole |= {
                "axes": [
                    {"key": REQUESTS, "values": [length for length, _ in made]},
                    {"key": self.bounds.key, "values": values},
                ],
                "points": [{**point, "point": number} for number, point in enumerate(points, 1)],
            }
        return whole | {
            "complete": self._over and all(document["complete"] for _, document in made),
            "highest": {
                "key": self.bounds.key,
                "passed": bracket.passed,
                "missed": bracket.missed,
                "met_above": bracket.met_above,
                "requests": requests,
                "settled": self.settled,
                "binding": self.binding,
                "range": self.range,
                "shorter": [
                    {"requests": length, "passed": tries.passed, "missed": tries.missed}
                    for length, tries in self.lengths[: self.lengths.index(self._answer)]
                ],
            },
        }


def _nobody(done: int) -> None:
    """Hears how many points are done."""
