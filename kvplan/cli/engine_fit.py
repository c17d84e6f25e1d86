"""``kvplan calibrate --engine-log``: reading, fitting, writing, and saying how good it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kvplan.cli.options import OutputFormat
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.scenario.engine_fit import EngineFit
    from kvplan.scenario.engine_log import EngineLog

FARTHEST = 2.0
"""Uncertainty of a constant (200 %) beyond which its size is not worth saying."""

COLUMNS = ("metric", "statistic", "before", "after")


def fit_engine_log(
    logs: Sequence[Path],
    scenario: str | None,
    out: Path | None,
    form: OutputFormat,
    max_in_flight: Sequence[int] = (),
) -> None:
    """Fit, write ``out`` and print the errors on the held-out half.

    Args:
        logs: runs of one deployment.
        max_in_flight: of all runs' clients, or of each one's.

    Raises:
        UsageError: an option is missing. KvplanError: log or scenario cannot be used.
    """
    if not logs or scenario is None or out is None:
        missing = [
            name
            for name, value in (("--engine-log", logs), ("--scenario", scenario), ("-o", out))
            if not value
        ]
        raise UsageError(
            f"fitting an engine also needs {' and '.join(missing)}",
            hint="kvplan calibrate --engine-log requests.csv --scenario s.yaml -o fitted.json",
        )
    from kvplan.cli.files import STANDARD, check_outputs, written
    from kvplan.provenance import input_file
    from kvplan.scenario.engine_fit import fit_engine
    from kvplan.scenario.engine_log import read_engine_logs
    from kvplan.scenario.fit_document import fit_document
    from kvplan.scenario.load import load_scenario, read_scenario

    if str(out) == STANDARD:
        raise UsageError("the fitted clock is a file that scenarios name", where="-o", hint="-o fitted.json")
    names = [str(log) for log in logs]
    if STANDARD in names:
        raise UsageError(
            "the clock names the log it was fitted to", where="--engine-log", hint="save the log first"
        )
    if len(set(names)) < len(names):
        raise UsageError("a run given twice tells no more than once", where="--engine-log")
    limits = _limits(logs, max_in_flight)
    called = ["the log"] if len(names) == 1 else [f"the log {name}" for name in names]
    check_outputs({"-o": str(out)}, {**dict(zip(called, names, strict=True)), "the scenario": scenario})
    read = [run for log, limit in zip(logs, limits, strict=True) for run in read_engine_logs(log, limit)]
    document = read_scenario(scenario)
    # The log is the workload: a scenario that describes the deployment only will do.
    document.data.setdefault("workload", {"synthesize": "fixed"})
    deployment = load_scenario(document)
    fit = fit_engine(deployment, read, lambda text: typer.echo(text, err=True))
    paths = names if scenario == "-" else [*names, scenario]
    found = fit_document(fit, deployment, read, [asdict(input_file(path)) for path in paths])
    with written(out) as stream:
        stream.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
    _print(fit, read, found, form, str(out))


def _limits(logs: Sequence[Path], max_in_flight: Sequence[int]) -> Sequence[int | None]:
    """The limit of each log's client, as far as somebody says it.

    Raises:
        UsageError: several, and not as many as logs.
    """
    if len(max_in_flight) <= 1:
        return [*max_in_flight, *([None] if not max_in_flight else ())] * len(logs)
    if len(max_in_flight) != len(logs):
        raise UsageError(
            f"{len(max_in_flight)} limits for {len(logs)} logs", where="--max-in-flight",
            hint="give it once for all of them, or once for each; 0 says that there was none",
        )  # fmt: skip
    return max_in_flight


def _print(
    fit: EngineFit, read: Sequence[EngineLog], document: dict[str, Any], form: OutputFormat, out: str
) -> None:
    from kvplan.cli.output import answer, answer_rows, print_json

    errors = [
        (metric, statistic, before, fit.after[metric][statistic])
        for metric, errors in fit.before.items()
        for statistic, before in errors.items()
    ]
    rows = [(metric, name, f"{before:+.1%}", f"{after:+.1%}") for metric, name, before, after in errors]
    if form is OutputFormat.json:
        print_json(document)
    elif form is OutputFormat.table:
        answer("\n".join([*(_run(each, len(read) > 1) for each in read), *_table(fit, len(read), rows, out)]))
    else:
        answer_rows(form, COLUMNS, errors if form is OutputFormat.csv else rows)


def _run(read: EngineLog, named: bool) -> str:
    """What the log says of the run, for whoever knows better."""
    from kvplan.units import format_seconds

    count, span = len(read.rows), max(row.arrival_s + row.e2e_s for row in read.rows)
    busy = sum(row.e2e_s for row in read.rows) / span
    run = f"The run {Path(read.path).name}" if named else "The run"
    return (
        f"{run}: {count:,} requests in {format_seconds(span)}, {count / span:.3g} a second, "
        f"{busy:.3g} in flight"
    )


def _table(fit: EngineFit, runs: int, rows: list[tuple[str, str, str, str]], out: str) -> list[str]:
    from textwrap import wrap

    lines = [
        f"Fitted on {fit.requests - fit.requests // 2:,} requests, tested on {fit.requests // 2:,} others",
        "",
    ]
    for name, value in fit.constants.items():
        state = "not identified, kept" if name in fit.assumed else "not identified"
        if name in fit.uncertainty:
            state = f"fitted, within {fit.uncertainty[name]:.0%}"
            if fit.unidentified and fit.alone[name] > fit.uncertainty[name]:
                alone = fit.alone[name]
                state += f" ({alone:.0%} alone)" if alone <= FARTHEST else " (alone it cannot be told)"
        lines.append(f"  {name:<20}{value:>12.4g}  {state}")
    lines += [f"  {name:<20}{value:>12.4g}  fitted to percentiles" for name, value in fit.variation.items()]
    if fit.uncertainty and fit.unidentified:
        which = "this run" if runs == 1 else "these runs"
        lines += ["", f"  (alone: from {which} only, without what is usual elsewhere)"]
    lines += ["", f"  {'held-out error':<20}{'before':>12}{'after':>12}"]
    lines += [
        f"  {metric.upper() + ' ' + statistic:<20}{before:>12}{after:>12}"
        for metric, statistic, before, after in rows
    ]
    for name, why in fit.unidentified.items():
        lines += ["", *wrap(f"{name} was not identified: {why}.", 80)]
    for note in fit.notes:
        lines += ["", *wrap(f"{note}.", 80)]
    return [*lines, "", *wrap(f"Use it with latency: {{model: fitted, name: {out}}}", 80)]
