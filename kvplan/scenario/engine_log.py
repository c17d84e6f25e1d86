"""Reading what a serving run measured: per request its arrival, lengths, time to first token and end to end.

Understood are a line a request (``kvplan.scenario.log_table``: CSV, JSON objects in a list or a line each),
results of the engines' own benchmarks (``kvplan.scenario.log_benchmark``) and aiperf's export
(``kvplan.scenario.log_aiperf``).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from kvplan.errors import DataError, UsageError
from kvplan.scenario.log_aiperf import is_aiperf, read_aiperf
from kvplan.scenario.log_benchmark import is_run, read_benchmark, served_model
from kvplan.scenario.log_table import (
    constant,
    is_record,
    parse_lines,
    read_records,
    read_table,
    requests_within,
)
from kvplan.scenario.measured import Measured

MAX_BYTES = 512 << 20
EXAMPLE = ("start_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s")
"""Names that a log of one's own may use."""
MAX_REQUESTS = 3_000
"""Requests a fit simulates, some two hundred times; the first ones of a longer log."""
FEWEST = 40
"""Requests below which two halves say nothing about percentiles."""
WARMING = 0.05
"""Share of a log's requests, at its beginning, that may be warming up."""
CROWD, COVERED = 1.5, 0.6
"""Requests a whole second, in most seconds of a run, above which they did not all come at its beginning.
Clumps further apart are a client's."""
WARM_FACTOR = 5.0
"""The first requests are warming up (kernels compiled, graphs captured, weights paged in) while they wait for
their first token this many times as long as nine in ten of the others."""


@dataclass(frozen=True, slots=True)
class EngineLog:
    """The requests by arrival, and what was done to them on reading.

    ``max_in_flight``: how many requests the client kept in flight at most, as it or the user says; 0 says
    that there was no limit, None that nobody says. ``model``: which one a benchmark asked for, if it says so.
    """

    path: str
    format: str
    rows: tuple[Measured, ...]
    notes: tuple[str, ...]
    max_in_flight: int | None = None
    model: str | None = None


class _Read(NamedTuple):
    """What a file holds; the client's limit and the model as the file says them."""

    format: str
    rows: list[Measured]
    max_in_flight: int | None = None
    model: str | None = None


def read_engine_log(path: Path, max_in_flight: int | None = None) -> EngineLog:
    """Read a serving run; the content, not the suffix, says what it is.

    Args:
        max_in_flight: the client's limit, where the file does not say it or says it wrongly; 0 for none.

    Raises:
        OSError: the file cannot be read.
        UsageError: a negative limit.
        DataError: a column is missing or a value unusable (file and line), or there are too few requests.
    """
    if max_in_flight is not None and max_in_flight < 0:
        raise UsageError(
            f"a client cannot keep {max_in_flight} requests in flight", where="--max-in-flight",
            hint="give its limit, or 0 if it had none",
        )  # fmt: skip
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"a log of more than {MAX_BYTES >> 20} MiB is not read", where=str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DataError(
            "not UTF-8 text", where=str(path), hint="unpack it, and save it as UTF-8 CSV or JSON"
        ) from exc
    notes: list[str] = []
    read = _rows(text, str(path), notes, max_in_flight)
    max_in_flight = read.max_in_flight if max_in_flight is None else max_in_flight
    rows = read.rows
    rows.sort(key=lambda row: row.arrival_s)
    if not max_in_flight:
        rows = _within_seconds(rows, notes)
    warming = _warming(rows)
    if warming:
        notes.append(
            f"the first {warming} requests are left out: they waited more than {WARM_FACTOR:g} times as long "
            "for their first token as the others, as an engine does that is warming up"
        )
        rows = rows[warming:]
    if len(rows) < FEWEST:
        raise DataError(
            f"{len(rows)} requests are too few to fit on one half and test on the other",
            where=str(path), hint=f"log {FEWEST} requests at least{'; ' if notes else ''}{'; '.join(notes)}",
        )  # fmt: skip
    if len(rows) > MAX_REQUESTS:
        notes.append(f"only the first {MAX_REQUESTS:,} of {len(rows):,} requests are used")
        rows = rows[:MAX_REQUESTS]
    first = rows[0].arrival_s
    shifted = tuple(replace(row, arrival_s=row.arrival_s - first) for row in rows)
    return EngineLog(str(path), read.format, shifted, tuple(notes), max_in_flight, read.model)


def _rows(text: str, path: str, notes: list[str], max_in_flight: int | None) -> _Read:
    if text.lstrip()[:1] not in ("{", "["):
        return _Read("csv", read_table(text, path, notes, max_in_flight))
    document = _document(text, path)
    if isinstance(document, list) and document and is_aiperf(document[0]):
        return _Read("aiperf", read_aiperf(document, path, notes))
    if isinstance(document, list):
        return _Read("json", read_records(document, path, notes, max_in_flight))
    if not isinstance(document.get("input_lens"), list):
        runs = list(requests_within(document, notes))
        if len(runs) > 1:
            raise DataError(
                f"the file holds {len(runs)} lists of requests", where=path, hint="keep the list of one run"
            )
        if runs:
            notes.append("the one list of requests in the file is read, and nothing else of it")
            return _Read("json", read_records(runs[0], path, notes, max_in_flight))
    return _Read(*read_benchmark(document, path, notes, max_in_flight), served_model(document))


def _document(text: str, path: str) -> dict[str, Any] | list[Any]:
    """A benchmark's object, or one object a request: a list, or a line each.

    SGLang appends a line a run: of several runs none is chosen.
    """
    try:
        document = json.loads(text, parse_constant=constant)
    except RecursionError as exc:
        raise DataError("not a benchmark result: nested too deep", where=path) from exc
    except ValueError as exc:
        lines = parse_lines(text)
        if lines is None or len(lines) < 2:
            raise DataError(f"not JSON: {exc}", where=path) from exc
        if all(map(is_record, lines)) or is_aiperf(lines[0]):
            return lines
        if all(isinstance(line, dict) and is_run(line) for line in lines):
            raise DataError(
                f"the file holds {len(lines)} runs, one a line", where=path, hint="keep the line of one run"
            ) from exc
        raise DataError(
            "lines of JSON that are neither requests nor runs", where=path,
            hint=f"a request has its lengths and times under names like {', '.join(EXAMPLE)}",
        ) from exc  # fmt: skip
    if isinstance(document, list):
        one = document[0] if len(document) == 1 else None
        return one if isinstance(one, dict) and is_run(one) else document
    if not isinstance(document, dict):
        raise DataError("not a benchmark result", where=path)
    return [document] if is_record(document) or is_aiperf(document) else document


def _within_seconds(rows: list[Measured], notes: list[str]) -> list[Measured]:
    """Requests whose arrivals were cut to whole seconds, each somewhere in its second.

    Taken as they stand, all that came in a second would queue for one another. Where a client waits for
    answers these say when it sent, so its requests stay where they are.
    """
    seconds = {row.arrival_s for row in rows}
    if len(rows) < CROWD * len(seconds) or any(moment % 1.0 for moment in seconds):
        return rows
    if len(seconds) < max(COVERED * (max(seconds) - min(seconds) + 1.0), 2.0):
        return rows
    stream = random.Random("engine-log/seconds")
    each = len(rows) / len(seconds)
    notes.append(f"arrivals are in whole seconds, {each:.2g} to one: each is drawn within its second")
    return sorted(
        (replace(row, arrival_s=row.arrival_s + stream.random()) for row in rows),
        key=lambda row: row.arrival_s,
    )


def _warming(rows: Sequence[Measured]) -> int:
    """How many requests at the beginning were warming up."""
    most = int(len(rows) * WARMING)
    others = sorted(row.ttft_s for row in rows[most:])
    if not most or not others:
        return 0
    limit = WARM_FACTOR * others[int(0.9 * (len(others) - 1))]
    slow = [index for index in range(most) if rows[index].ttft_s > limit]
    # Whoever waits behind others waits in a queue: a client that sends a hundred requests at once makes one.
    if not slow or any(row.arrival_s + row.ttft_s > rows[slow[0]].arrival_s for row in rows[: slow[0]]):
        return 0
    return slow[-1] + 1
