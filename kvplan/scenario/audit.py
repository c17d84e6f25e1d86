"""Checking a result: are its inputs unchanged, its numbers consistent, and do both engines agree on it?

The first requests of the result's scenario are played through the reference engine, block by block, and
through the fast one: with a decision log, which is compared line by line, and without one, where the fast
engine takes quiet steps in bulk and per-request rows and totals are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.errors import DataError
from kvplan.provenance import input_file
from kvplan.scenario.conservation import Check, check_laws, check_totals
from kvplan.scenario.run import Run
from kvplan.scenario.schema import Scenario
from kvplan.specs.document import YamlDocument, validate

DEFAULT_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference between the engines.

    Attributes:
        kind: ``decision`` (a line of the log), ``request`` (a row) or ``totals``.
        step: number of the line or row, from 0; for totals the number of steps.
        fast: what the fast engine says; ``None``: it ended before.
        reference: what the reference says; ``None``: it ended before.
    """

    kind: str
    step: int
    fast: str | None
    reference: str | None


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found; ``requests`` and ``steps`` count what the reference engine played."""

    requests: int
    steps: int
    divergence: Divergence | None
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found wrong."""
        return self.divergence is None and all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class _Play:
    """One run of the sample."""

    lines: list[str]
    rows: list[RequestRow]
    totals: dict[str, int | float]
    engine: type
    strategy: str | None


def audit_result(
    document: Mapping[str, Any], sample: int = DEFAULT_SAMPLE, *, where: str = "result"
) -> Audit:
    """Audit a ``kvplan.result/1`` document.

    Args:
        document: the decoded result, valid against its schema.
        sample: play so many requests from the start of the workload.
        where: what to call the result in errors.

    Raises:
        DataError: an input is missing or has changed, or cannot be read again; the scenario is invalid.
        UsageError: the reference engine does not simulate this (several replicas, eviction other than lru).
        KvplanError: the scenario cannot be run.
    """
    check_inputs(document["provenance"]["inputs"])
    scenario = validate(YamlDocument(dict(document["scenario"]), f"{where} (scenario)", None), Scenario)
    if scenario.workload.reads_once:
        raise DataError(
            "the trace was read from standard input or a pipe and cannot be read again",
            where="scenario.workload.trace",
            hint="simulate from a file to get a result that can be audited",
        )
    reference = _play(scenario, "reference", sample, log=True)
    logged = _play(scenario, "fast", sample, log=True)
    divergence = _compare(logged, reference, log=True)
    if divergence is None:
        divergence = _compare(_play(scenario, "fast", sample, log=False), reference, log=False)
    checks = check_laws(document)
    played = int(reference.totals["requests"])
    if document["complete"] and played == document["totals"]["requests"]:
        checks = (*checks, check_totals(document["totals"], reference.totals))
    notes = []
    if reference.strategy is not None and logged.engine is reference.engine:
        notes.append(
            f"{reference.strategy} has one implementation, which was played against itself: equal means "
            "that it repeats itself"
        )
    elif logged.engine is reference.engine:
        notes.append(
            "full attention (or chunks) in blocks of two sizes runs block by block under either name: one "
            "engine was played"
        )
    return Audit(played, int(reference.totals["steps"]), divergence, checks, tuple(notes))


def check_inputs(inputs: list[Mapping[str, Any]]) -> None:
    """Compare the files a result was made from with what they are now.

    Raises:
        DataError: a file is gone or its content differs.
    """
    for recorded in inputs:
        path = str(recorded["path"])
        if not Path(path).is_file():
            raise DataError(
                "the input of this result is not there any more",
                where=path,
                hint="relative paths are looked up from where the simulation was started",
            )
        found = input_file(path)
        if found.sha256 != recorded["sha256"]:
            raise DataError(
                f"the input has changed since the result was written: sha256 {found.sha256[:12]}..., "
                f"recorded {str(recorded['sha256'])[:12]}...",
                where=path,
                hint="simulate again, or bring the recorded file back",
            )


def _play(scenario: Scenario, name: str, sample: int, *, log: bool) -> _Play:
    run = Run(scenario)
    lines: list[str] = []
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    engine = run.system.engine(name, run.clock.model, recorder)
    requests = islice(run.workload.requests(), sample)
    engine.run(run.workload.clients.arrivals(requests, run.clock.client, whole=False))
    engine.close()
    strategy = run.system.strategy
    return _Play(
        lines, rows, recorder.totals.to_dict(), type(engine), None if strategy is None else strategy.name
    )


def _compare(fast: _Play, reference: _Play, *, log: bool) -> Divergence | None:
    if log and (found := _first_difference("decision", fast.lines, reference.lines)):
        return found
    if found := _first_difference("request", fast.rows, reference.rows):
        return found
    for name, value in reference.totals.items():
        if fast.totals[name] != value:
            step = int(reference.totals["steps"])
            return Divergence("totals", step, f"{name} = {fast.totals[name]!r}", f"{name} = {value!r}")
    return None


def _first_difference(kind: str, fast: list[Any], reference: list[Any]) -> Divergence | None:
    if fast == reference:
        return None
    step = 0
    while step < min(len(fast), len(reference)) and fast[step] == reference[step]:
        step += 1
    ours = str(fast[step]) if step < len(fast) else None
    theirs = str(reference[step]) if step < len(reference) else None
    return Divergence(kind, step, ours, theirs)
