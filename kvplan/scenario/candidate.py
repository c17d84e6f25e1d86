"""One kind of replica: how many of them meet every objective."""

from __future__ import annotations

from typing import Any

from kvplan.scenario.bracket import meets
from kvplan.scenario.outcomes import Outcome
from kvplan.scenario.schema import Scenario


class Candidate:
    """What is known of one kind of replica under one workload and clock.

    Args:
        scenario: with one replica.
        gpus: of a replica.
        most: replicas to try at most.
        start: how many to try first.
    """

    def __init__(self, scenario: Scenario, gpus: int, most: int, start: int = 1) -> None:
        self.scenario, self.gpus, self.most = scenario, gpus, most
        self.tried: dict[int, Outcome] = {}
        """Replicas to what came of them."""
        self._start = min(start, most)

    def again(self) -> Candidate:
        """The same, nothing tried: for a longer workload or another clock.

        Begins at what met before, or at the most that missed, which a percentile of few requests may have
        done by chance. What cannot be simulated stays so.
        """
        return self if self.shown is None else Candidate(self.scenario, self.gpus, self.most, self.shown)

    @property
    def passed(self) -> int | None:
        """The fewest replicas tried that met every objective."""
        return min((number for number, outcome in self.tried.items() if meets(outcome)), default=None)

    @property
    def missed(self) -> int | None:
        """The most replicas tried that did not, below those that did."""
        passed = self.passed
        bad = [number for number, outcome in self.tried.items() if outcome["figures"] and not meets(outcome)]
        return max((number for number in bad if passed is None or number < passed), default=None)

    @property
    def error(self) -> dict[str, Any] | None:
        """Why a number cannot be simulated, which ends the search: it does not fit, or something is wrong."""
        return next((outcome["error"] for outcome in self.tried.values() if outcome["error"]), None)

    @property
    def shown(self) -> int | None:
        """The number whose figures tell most: the answer, or the most that were tried in vain."""
        return self.passed if self.passed is not None else self.missed

    @property
    def figures(self) -> dict[str, Any] | None:
        """Of the number shown."""
        return None if self.shown is None else self.tried[self.shown]["figures"]

    def next(self) -> int | None:
        """How many replicas to try next; None where the answer is known.

        Up from the start in steps that double, then halves of what is left between.
        """
        passed, missed = self.passed, self.missed
        if self.most < 1 or self.error is not None:
            return None
        if passed is None:
            if missed is None:
                return self._start
            return None if missed >= self.most else min(self.most, missed + (1 << (len(self.tried) - 1)))
        below = missed or 0
        if passed - below <= 1:
            return None
        # What met before a workload was lengthened is likely the answer still.
        return passed - 1 if passed == self._start else (below + passed) // 2
