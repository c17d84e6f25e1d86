"""A sweep: one scenario simulated at every point of a few axes (``kvplan.sweep/1``).

Points run in processes of their own (``concurrent.futures``, which every Python has; the runs share nothing,
so a scheduler of tasks would add a dependency and no speed). A point that fails is a row with its reason;
an interrupted sweep keeps the points that are done.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from typing import Any

from kvplan.errors import Interrupted, KvplanError, UsageError
from kvplan.provenance import InputFile, input_file, provenance
from kvplan.scenario.axes import Axis, points
from kvplan.scenario.load import load_scenario, read_scenario
from kvplan.scenario.schema import Scenario
from kvplan.specs.document import YamlDocument

SCHEMA = "kvplan.sweep/1"

Outcome = dict[str, Any]
"""``figures`` of a point, or its ``error``; the other one is None."""

Outcomes = Generator[tuple[int, Outcome], None, None]
"""Number of a point and its outcome, as they come."""

DIED = KvplanError(
    "the process that simulated it died: killed, or out of memory",
    hint="simulate this point alone, with fewer requests, or the sweep with --jobs 1",
)


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
                self.scenarios.append(_as_error(exc))
                continue
            if scenario.workload.reads_once:
                raise UsageError(
                    "a sweep reads its trace once a point, and standard input or a pipe can be read once",
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
                self.outcomes[number] = _failure(scenario)
        if not left:
            return
        jobs = min(jobs, len(left))
        found = _one_by_one(left, self.slower) if jobs == 1 else _in_processes(left, jobs, self.slower)
        try:
            with closing(found):
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
                    **(outcome or {"figures": None, "error": None}),
                }
                for number, (point, values, outcome) in enumerate(
                    zip(self.points, self._values(), self.outcomes, strict=True)
                )
            ],
            "provenance": provenance(command, 0 if first is None else first.seed, self._inputs()),
        }

    def _values(self) -> Iterator[list[Any]]:
        known = [dict(zip(axis.texts, axis.values, strict=True)) for axis in self.axes]
        for point in self.points:
            yield [values[text] for values, text in zip(known, point.values(), strict=True)]

    def _inputs(self) -> list[InputFile]:
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


def _one_by_one(left: Mapping[int, dict[str, Any]], slower: float) -> Outcomes:
    for number, scenario in left.items():
        yield number, simulate_point(scenario, slower)


def _in_processes(left: dict[int, dict[str, Any]], jobs: int, slower: float) -> Outcomes:
    """In no order. When a process dies, nobody knows which point it was: the rest goes on one at a time."""
    undone = dict(left)
    for number, outcome in _pool(left, jobs, slower):
        del undone[number]
        yield number, outcome
    for number, scenario in undone.items():
        alone = list(_pool({number: scenario}, 1, slower))
        yield alone[0] if alone else (number, _failure(DIED))


def _pool(left: Mapping[int, dict[str, Any]], jobs: int, slower: float) -> Outcomes:
    """Outcomes as they come, until all are there or a process has died."""
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _quiet_interrupts)
    try:
        running = {pool.submit(simulate_point, scenario, slower): number for number, scenario in left.items()}
        for future in as_completed(running):
            yield running[future], future.result()
    except BrokenProcessPool:
        return
    except BaseException:  # interrupted: what runs is not waited for
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _quiet_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; the first one decides for all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def simulate_point(document: dict[str, Any], slower: float = 1.0) -> Outcome:
    """Simulate one resolved scenario, without an ensemble, and keep its figures.

    With ``slower`` every step takes so many times as long as its clock says.
    """
    from kvplan.scenario.figures import block_bytes_of, figures
    from kvplan.scenario.run import Run
    from kvplan.scenario.settling import Stays

    scenario = Scenario.model_validate(
        {**document, "accuracy": {**document.get("accuracy", {}), "ensemble": 0}}
    )
    try:
        run = Run(scenario)
        if slower != 1.0:
            from kvplan.latency.slowed import slowed

            run.clock = replace(run.clock, model=slowed(run.clock.model, slower))
        stays = Stays()
        run.execute(on_request=stays.add)
        if run.interruption is not None:
            raise KeyboardInterrupt
        found = figures(run.result([]), block_bytes_of(scenario, run.deployment), stays)
        return {"figures": found, "error": None}
    except Exception as exc:  # a sweep goes on, whatever is wrong with one of its points
        return _failure(_as_error(exc))


def _as_error(exc: Exception) -> KvplanError:
    if isinstance(exc, KvplanError):
        return exc
    if isinstance(exc, OSError):
        return KvplanError(exc.strerror or str(exc), where=str(exc.filename) if exc.filename else None)
    if isinstance(exc, MemoryError):
        return KvplanError("out of memory", hint="simulate fewer requests, or with --jobs 1")
    problem = KvplanError(
        f"internal error: {type(exc).__name__}: {exc}",
        hint="this is a bug in kvplan; simulate this point alone with --debug and report the traceback",
    )
    problem.code = "internal"
    return problem


def _failure(error: KvplanError) -> Outcome:
    return {"figures": None, "error": error.to_dict()["error"]}
