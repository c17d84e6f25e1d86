"""Reading what a serving run measured: of each request when it came, its lengths, TTFT and end-to-end time.

Understood are a line a request (``kvplan.scenario.log_table``: CSV, JSON objects in a list or a line each,
the rows of an SQLite file), results of the engines' own benchmarks (``kvplan.scenario.log_benchmark``),
aiperf's export (``kvplan.scenario.log_aiperf``) and genai-bench's files
(``kvplan.scenario.log_genai_bench``), plain or compressed. A file may hold several runs of one deployment
(``kvplan.scenario.log_document``).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import NamedTuple

from kvplan.errors import DataError, UsageError
from kvplan.scenario.log_aiperf import is_aiperf, read_aiperf
from kvplan.scenario.log_benchmark import read_benchmark, served_model, served_tp
from kvplan.scenario.log_document import RunDocument, runs_in
from kvplan.scenario.log_genai_bench import genai_bench_requests, is_genai_bench
from kvplan.scenario.log_sqlite import MAGIC, sqlite_requests
from kvplan.scenario.log_table import read_records, read_table
from kvplan.scenario.log_units import agreed, check_streamed
from kvplan.scenario.measured import Measured
from kvplan.traces.compression import Telling, unpacked

MAX_BYTES = 512 << 20
MAX_RUNS = 16
"""Runs of a file: each is simulated some two hundred times."""
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
    that there was no limit, None that nobody says. ``model``: which one a benchmark asked for, if it says so;
    ``tp``: on how many GPUs its server spread a layer; ``drawn``: when requests came is not from the log, but
    what its benchmark may have done.
    """

    path: str
    format: str
    rows: tuple[Measured, ...]
    notes: tuple[str, ...]
    max_in_flight: int | None = None
    model: str | None = None
    tp: int | None = None
    drawn: bool = False

    def without_server_times(self) -> EngineLog:
        """The same as its clients alone saw it."""
        return replace(self, rows=tuple(replace(row, prefill_s=None) for row in self.rows))

    def without_gaps(self) -> EngineLog:
        """The same without when each token came."""
        return replace(self, rows=tuple(replace(row, gaps=()) for row in self.rows))


class _Read(NamedTuple):
    """What a run holds; the client's limit, the model and its GPUs as the file says them."""

    format: str
    rows: list[Measured]
    max_in_flight: int | None = None
    model: str | None = None
    tp: int | None = None
    drawn: bool = False


def read_engine_logs(path: Path, max_in_flight: int | None = None) -> list[EngineLog]:
    """Read the serving runs of a file, one at least; the content, not the suffix, says what it is.

    Of several runs those with too few requests are left out.

    Args:
        max_in_flight: the client's limit, where the file does not say it or says it wrongly; 0 for none.

    Raises:
        OSError: the file cannot be read.
        UsageError: a negative limit.
        EnvironmentLacks: it is compressed in a way that nothing here unpacks.
        DataError: a column is missing or a value unusable (file and line), there are too few requests, or the
            runs are not of one deployment.
    """
    if max_in_flight is not None and max_in_flight < 0:
        raise UsageError(
            f"a client cannot keep {max_in_flight} requests in flight", where="--max-in-flight",
            hint="give its limit, or 0 if it had none",
        )  # fmt: skip
    notes: list[str] = []
    runs = _runs(path, notes)
    if len(runs) > MAX_RUNS:
        raise DataError(
            f"the file holds {len(runs)} runs, more than the {MAX_RUNS} that are fitted together",
            where=str(path), hint="keep those of different loads, in a file each or in one",
        )  # fmt: skip
    found: list[EngineLog] = []
    for number, run in enumerate(runs, start=1):
        name = str(path) if len(runs) == 1 else f"{path}, run {number}"
        log = _log(run, name, [] if found else notes, max_in_flight)
        if len(log.rows) >= FEWEST:
            found.append(log)
        elif len(runs) > 1:
            notes.append(f"run {number} of {path.name} is left out: {len(log.rows)} requests are too few")
        else:
            raise _too_few(log)
    if not found:
        raise DataError(
            f"none of the {len(runs)} runs has {FEWEST} requests", where=str(path),
            hint=f"log {FEWEST} requests at least of each",
        )  # fmt: skip
    _check_one_deployment(found, path)
    return found


def _check_one_deployment(logs: Sequence[EngineLog], path: Path) -> None:
    for what, said in (("models", {log.model for log in logs}), ("sizes (tp)", {log.tp for log in logs})):
        names = sorted(str(each) for each in said if each is not None)
        if len(names) > 1:
            raise DataError(
                f"the runs are of several {what}: {', '.join(names)[:200]}", where=str(path),
                hint="keep the runs of one deployment",
            )  # fmt: skip


def _too_few(log: EngineLog) -> DataError:
    said = "".join(f"; {note}" for note in log.notes)
    return DataError(
        f"{len(log.rows)} requests are too few to fit on one half and test on the other",
        where=log.path, hint=f"log {FEWEST} requests at least{said}",
    )  # fmt: skip


def _log(run: str | RunDocument, name: str, notes: list[str], max_in_flight: int | None) -> EngineLog:
    read = _rows(run, name, notes, max_in_flight)
    max_in_flight = read.max_in_flight if max_in_flight is None else max_in_flight
    check_streamed(read.rows, name)
    rows = _once(agreed(read.rows, notes), notes)
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
    if len(rows) > MAX_REQUESTS:
        notes.append(f"only the first {MAX_REQUESTS:,} of {len(rows):,} requests are used")
        rows = rows[:MAX_REQUESTS]
    first = rows[0].arrival_s if rows else 0.0
    shifted = tuple(replace(row, arrival_s=row.arrival_s - first) for row in rows)
    return EngineLog(name, read.format, shifted, tuple(notes), max_in_flight, read.model, read.tp, read.drawn)


def _runs(path: Path, notes: list[str]) -> list[str | RunDocument]:
    """The text of a table, or the runs of a document."""
    if path.stat().st_size > MAX_BYTES:
        raise _too_large(path)
    with Telling(str(path)), ExitStack() as stack:
        head, stream = unpacked(stack.enter_context(open(path, "rb")), stack, name=str(path), path=path)
        if head.startswith(MAGIC):
            return [sqlite_requests(path)]
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _too_large(path)
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as PowerShell and spreadsheets write
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DataError(
            "not UTF-8 text", where=str(path), hint="unpack it, and save it as UTF-8 CSV or JSON"
        ) from exc
    return [text] if text.lstrip()[:1] not in ("{", "[") else [*runs_in(text, str(path), notes)]


def _too_large(path: Path) -> DataError:
    return DataError(f"a log of more than {MAX_BYTES >> 20} MiB is not read", where=str(path))


def _rows(run: str | RunDocument, path: str, notes: list[str], max_in_flight: int | None) -> _Read:
    if isinstance(run, str):
        return _Read("csv", read_table(run, path, notes, max_in_flight))
    if isinstance(run, list):
        if run and is_aiperf(run[0]):
            return _Read("aiperf", read_aiperf(run, path, notes))
        return _Read("json", read_records(run, path, notes, max_in_flight))
    if is_genai_bench(run):
        requests, clients = genai_bench_requests(run, path)
        limit = clients if max_in_flight is None else max_in_flight
        return _Read("genai-bench", read_records(requests, path, notes, limit), limit)
    drawn = not isinstance(run.get("start_times"), list)
    return _Read(*read_benchmark(run, path, notes, max_in_flight), served_model(run), served_tp(run), drawn)


def _once(rows: list[Measured], notes: list[str]) -> list[Measured]:
    """The rows of a log that is in its file several times, once."""
    counts = Counter(rows)
    times = gcd(*counts.values())
    if times < 2 or len(counts) < FEWEST:  # a few requests alike, sent together, may well take the same time
        return rows
    notes.append(f"every request is in the log {times} times, with the same times: each is counted once")
    return list(Counter({row: count // times for row, count in counts.items()}).elements())


def _within_seconds(rows: list[Measured], notes: list[str]) -> list[Measured]:
    """Requests whose arrivals were cut to whole seconds, each somewhere in its second.

    Taken as they stand, all that came in a second would queue for one another. Where a client waits for
    answers these say when it sent, so its requests stay where they are.
    """
    seconds = {row.arrival_s for row in rows}
    if not rows or len(rows) < CROWD * len(seconds) or any(moment % 1.0 for moment in seconds):
        return rows
    if len(seconds) < max(COVERED * (max(seconds) - min(seconds) + 1.0), 2.0):
        return rows
    stream = random.Random("engine-log/seconds")
    each = len(rows) / len(seconds)
    notes.append(f"arrivals are in whole seconds, {each:.2g} to one: each is drawn within its second")
    return sorted(
        (replace(row, arrival_s=row.arrival_s + stream.random(), gaps=()) for row in rows),
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
