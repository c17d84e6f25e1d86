"""A sweep: one scenario simulated at every point of a few axes (``kvplan.sweep/1``).

A point that fails is a row with its reason; an interrupted sweep keeps the points that are done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from kvplan.errors import Interrupted, KvplanError, UsageError
from kvplan.provenance import InputFile, input_file, provenance
from kvplan.scenario.axes import Axis, points
from kvplan.scenario.load import load_scenario, read_scenario
from kvplan.scenario.outcomes import NOT_RUN, Outcome, as_error, failure, outcomes
from kvplan.scenario.schema import Scenario
from kvplan.scenario.workload import open_workload
from kvplan.specs.document import YamlDocument

SCHEMA = "kvplan.sweep/1"


class Sweep:
    """Everything a sweep is about to do.

    Args:
        path: scenario file, ``-`` for standard input, what was read of either, or None when flags say all.
        axes: what is varied.
        flags: dotted key to value, for every point.
        assignments: ``a.b=value`` texts, for every point.
        count: how many requests to generate or, of a trace, to read.
        varied_by: the option that the axes come from, for errors.
        slower: every step takes so many times as long as the clock says.

    Raises:
        SpecError, OSError: the scenario file cannot be read.
        UsageError: no axis, or too many points. KvplanError: what is wrong with every point alike.
    """

    def __init__(
        self,
        path: str | YamlDocument | None,
        axes: Sequence[Axis],
        *,
        flags: Mapping[str, Any] | None = None,
        assignments: Sequence[str] = (),
        count: int | None = None,
        varied_by: str = "--vary",
        slower: float = 1.0,
    ) -> None:
        if not axes:
            raise UsageError("nothing is varied", hint="say for example --vary cache.eviction=lru,lfu")
        document = path if isinstance(path, YamlDocument) else read_scenario(path)
        self.axes = tuple(axes)
        self.slower = slower
        self.points = points(axes)
        self.scenarios: list[Scenario | KvplanError] = []
        """Of every point its scenario, or why it is none."""
        for point in self.points:
            varied = [f"{key}={value}" for key, value in point.items()]
            try:
                scenario = load_scenario(
                    document, flags, assignments, varied=varied, varied_by=varied_by, count=count
                )
            except (KvplanError, OSError) as exc:
                self.scenarios.append(as_error(exc))
                continue
            if scenario.workload.reads_once:
                raise UsageError(
                    "the trace is read once a simulation, and standard input or a pipe can be read once",
                    where="workload.trace",
                    hint="save the trace to a file",
                )
            self.scenarios.append(scenario)
        wrong = [item for item in self.scenarios if isinstance(item, KvplanError)]
        if len(wrong) == len(self.scenarios) and len({(item.message, item.where) for item in wrong}) == 1:
            raise wrong[0]  # a misspelt field, say: a table of the same reason helps nobody
        self.outcomes: list[Outcome | None] = [None] * len(self.points)

    @property
    def complete(self) -> bool:
        """Whether every point has an outcome."""
        return all(outcome is not None for outcome in self.outcomes)

    def check_rate(self) -> None:
        """That a rate which is varied makes a difference; reads a request of the first point's trace.

        Raises:
            UsageError: the trace has times of its own. DataError: it cannot be read.
        """
        first = next((item for item in self.scenarios if isinstance(item, Scenario)), None)
        if first is not None and any(axis.key == "workload.rate" for axis in self.axes):
            open_workload(first.workload, first.seed).check_rate_counts()

    def execute(self, jobs: int = 1, on_done: Callable[[int], None] | None = None) -> None:
        """Simulate all points, in at most ``jobs`` processes at a time.

        Args:
            on_done: called after each point with how many are done.

        Raises:
            Interrupted: by the user; ``outcomes`` has what was done until then.
        """
        left: dict[int, dict[str, Any]] = {}
        for number, scenario in enumerate(self.scenarios):
            if isinstance(scenario, Scenario):
                left[number] = scenario.to_dict()
            else:
                self.outcomes[number] = failure(scenario)
        if not left:
            return
        try:
            with closing(outcomes(left, jobs, self.slower)) as found:
                for number, outcome in found:
                    self.outcomes[number] = outcome
                    if on_done is not None:
                        on_done(sum(item is not None for item in self.outcomes))
        except KeyboardInterrupt as exc:
            raise Interrupted("the sweep was interrupted") from exc

    def document(self, command: Sequence[str]) -> dict[str, Any]:
        """The ``kvplan.sweep/1`` document of what is done."""
        first = next((item for item in self.scenarios if isinstance(item, Scenario)), None)
        return {
            "schema": SCHEMA,
            "complete": self.complete,
            "axes": [{"key": axis.key, "values": list(axis.values)} for axis in self.axes],
            "scenario": None if first is None else first.to_dict(),
            "points": [
                {
                    "point": number + 1,
                    "values": dict(zip(point, values, strict=True)),
                    "status": _status(outcome),
                    **{key: (outcome or NOT_RUN)[key] for key in ("figures", "error", "warnings")},
                }
                for number, (point, values, outcome) in enumerate(
                    zip(self.points, self.values(), self.outcomes, strict=True)
                )
            ],
            "provenance": provenance(command, 0 if first is None else first.seed, self.inputs()),
        }

    def values(self) -> Iterator[list[Any]]:
        """Of each point what the axes' fields are set to."""
        known = [dict(zip(axis.texts, axis.values, strict=True)) for axis in self.axes]
        for point in self.points:
            yield [values[text] for values, text in zip(known, point.values(), strict=True)]

    def inputs(self) -> list[InputFile]:
        """The traces of all points, by content."""
        traces = dict.fromkeys(
            item.workload.trace
            for item in self.scenarios
            if isinstance(item, Scenario) and item.workload.trace
        )
        return [input_file(path) for path in traces if path is not None and os.path.isfile(path)]


def _status(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not run"
    return "done" if outcome["error"] is None else "failed"
