"""Rows of requests under the names that tools, logs and spreadsheets give them, in tables and JSON.

Columns are found by their names and checked on the first rows; how they, their units and their numbers were
taken is noted, and what could be two things is refused. Nested objects are looked through. Contents are known
where rows have block ids or token ids. Formats with rules of their own are read by these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from kvplan.errors import DataError
from kvplan.traces.accounting import Accounting
from kvplan.traces.arrivals import drawn_arrivals
from kvplan.traces.formats.contract import (
    NO_COUNT,
    NO_PRIORITY,
    Intake,
    ReadOptions,
    TraceFormat,
    check_priority,
)  # fmt: skip
from kvplan.traces.formats.instants import MIXED_ZONES
from kvplan.traces.formats.lengths import DURATIONS, TIMES
from kvplan.traces.formats.record_blocks import Contents
from kvplan.traces.formats.record_columns import Columns, cell_of, columns_of, looks_like_requests
from kvplan.traces.formats.record_rows import Row, Rows
from kvplan.traces.formats.record_times import Clock
from kvplan.traces.formats.table import named, parse_number
from kvplan.traces.numerals import Numerals, numerals_of
from kvplan.traces.request import Request, default_output
from kvplan.traces.source import Source

SAMPLE = 2_000
"""Rows by which columns, units and numbers are settled."""
MOONCAKE = ("input_length", "output_length", "hash_ids")
_MODELS = ("model", "model_id", "model_name", "request_model", "gen_ai_request_model")
_KINDS = {"run_type": ("llm", "chat_model"), "span_kind": ("llm", "generation")}
"""Columns that say what a row is of, and what calls of a model are called: others add up those below them."""
_IDS = ("request_id", "id")
"""Names that are one request's together: coding agents write a row a part of an answer, each with all."""
_MOST = 1e300
"""Whole numbers of a JSON file may be larger than any floating-point number."""
_WARMING = frozenset(("warmup", "warm_up", "warming"))


def sniff(head: bytes, name: str) -> bool:
    rows = _head_rows(head)
    return bool(rows) and looks_like_requests(rows)


def _head_rows(head: bytes) -> list[Row]:
    """The whole rows of a head; a table's header alone counts as a row without cells."""
    lines = [line for line in head.split(b"\n") if line.strip()]
    if not lines or b"\0" in head[:1024]:
        return []
    whole = lines if head.endswith(b"\n") or len(lines) == 1 else lines[:-1]
    source = _Lines([line + b"\n" for line in whole[:50]])
    rows = Rows(source)
    try:
        found = [row for row in rows if not row.fault]
    except DataError:
        return []
    return found or ([Row(1, dict.fromkeys(rows.names))] if rows.parted else [])


class _Lines:
    """Lines in memory, as a source has them."""

    name = ""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines

    def lines(self) -> Iterator[tuple[int, bytes]]:
        yield from enumerate(self._lines, start=1)


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order of the file; arrivals from the first row's (the caller moves the first to 0)."""
    rows = Rows(source)
    following = iter(rows)
    sample = list(islice(following, SAMPLE))
    good = [row for row in sample if not row.fault]
    if not good:
        for row in chain(sample, following):
            accounting.rows += 1
            accounting.drop(row.fault, row.line)
        return
    plan = _Plan(rows, good, options, source.name)
    for note in plan.notes:
        accounting.note(note)
    others = plan.unread(good)
    if others and plan.clock is not None:
        accounting.note(f"not read: {others}")
    columns, clock = plan.columns, plan.clock
    contents = Contents(columns, good, options, accounting, plan.number, source.name)
    admit = Intake(options, accounting).admit
    process: Iterator[float] | None = None
    if clock is None and options.rate is not None:
        process = drawn_arrivals(options.rate, options.seed, accounting)
    elif clock is None:
        beside = f" ({others} not read)" if others else ""
        accounting.note(
            f"no arrival times in the trace{beside}: all requests arrive at 0 unless a rate is given"
        )
    scale = options.time_scale / options.rate_scale
    seen: set[tuple[str, ...]] = set()
    for row in chain(sample, following):
        accounting.rows += 1
        index = accounting.rows - 1
        fault = row.fault or (_clash(row, columns) if row.twice else "")
        cells = row.cells
        if not fault and str(cells.get("benchmark_phase")) in _WARMING:
            fault = "belongs to the warm-up"
        fault = fault or _no_call(cells)
        if not fault and all(cells.get(name) for name in _IDS):
            ids = tuple(str(cells[name]) for name in _IDS)
            fault = (
                "another part of a request above it (by its request's and its own id)" if ids in seen else ""
            )
            seen.add(ids)
        if fault:
            accounting.drop(fault, row.line)
            continue
        try:
            prompt_tokens = contents.prompt_tokens(cells)
            output_tokens = plan.count(cells.get(columns.output))
        except ValueError:
            accounting.drop(NO_COUNT, row.line)
            continue
        rank = cell_of(cells, columns.priority) or 0
        try:
            priority = plan.count(rank)
        except ValueError:
            check_priority(rank, f"{source.name}:{row.line}")
            accounting.drop(NO_PRIORITY, row.line)
            continue
        arrival_s = 0.0
        if clock is not None and columns.arrival is not None:
            cell = cells.get(columns.arrival.name)
            try:
                arrival_s = clock.seconds(cell, plan.time(cell)) * scale
            except (ValueError, OverflowError):
                kind = "a date" if clock.dated else "a number"
                accounting.drop(f"{plan.written(columns.arrival.name)} is not {kind}", row.line)
                continue
        # Rows may be out of order: one before the first row is fine, the sort will put it first.
        output_tokens = admit(row.line, abs(arrival_s), prompt_tokens, output_tokens)
        if not output_tokens:
            continue
        prompt, fault = contents.prompt(cells, prompt_tokens, index)
        if fault:
            accounting.drop(fault, row.line)
            continue
        if process is not None:
            arrival_s = next(process)
        session = cell_of(cells, columns.session)
        accounting.requests += 1
        yield Request(
            f"{index:06d}",
            arrival_s,
            prompt,
            prompt_tokens,
            default_output(index, output_tokens),
            output_tokens,
            priority,
            str(session) if session != "" and isinstance(session, (str, int)) else None,
        )
    if clock is not None and clock.mixed_zones:
        accounting.note(MIXED_ZONES)


class _Plan:
    """How rows are read, settled on the first ones."""

    def __init__(self, rows: Rows, sample: Sequence[Row], options: ReadOptions, name: str) -> None:
        self._names = rows.names
        self._numerals = Numerals()
        where = f"{name}:1"
        self.columns = columns = columns_of(sample, rows.repeated, rows.names, self.number, where)
        arrival = columns.arrival
        times = [row.cells.get(arrival.name) for row in sample] if arrival is not None else []
        texts = [cell for cell in times if isinstance(cell, str) and cell]
        tokens = [column for column in (columns.prompt, columns.output) if column is not None]
        counts = [row.cells.get(column) for row in sample for column in tokens]
        self._numerals = numerals_of([cell for cell in counts if isinstance(cell, str)], texts, where)
        self.clock: Clock | None = None
        taken = []
        if arrival is not None:
            numbers = [number for cell in times if (number := self.time(cell)) is not None]
            others = [cell for cell in times if cell not in (None, "") and self.time(cell) is None]
            written = repr(self.written(arrival.name))
            try:
                own = (columns.prompt, columns.output, columns.blocks)
                self.clock = Clock(
                    arrival, others, numbers, options.time_scale, written, where, mooncake=own == MOONCAKE
                )
                taken.append(f"arrivals from {written} {self.clock.said}")
            except DataError as exc:
                if options.rate is None:
                    raise
                taken.append(f"arrivals drawn at the rate given ({exc.message})")
        elif options.rate is None:
            _refuse_other_times(sample, where)
        prompt = [name for name in (columns.prompt or columns.tokens, *columns.added) if name]
        taken.append(f"prompts from {' + '.join(repr(self.written(name)) for name in prompt)}")
        taken.append(f"answers from {self.written(columns.output)!r}")
        if columns.session is not None:
            taken.append(f"sessions from {self.written(columns.session)!r}")
        style = [f"parted by {rows.parted}"] if rows.parted and rows.parted != "commas" else []
        style += [said] if (said := self._numerals.said()) else []
        self.notes = ["; ".join([", ".join(taken), *style])]
        if said := _models(sample):
            self.notes.append(said)

    def unread(self, rows: Sequence[Row]) -> str:
        """Columns that nothing is read from, as the file has them, the first few by name; empty for none."""
        own = self.columns
        used = {
            own.prompt,
            own.output,
            own.session,
            own.priority,
            own.blocks,
            own.tokens,
            own.size,
            own.arrival.name if own.arrival else None,
            *own.added,
            *_MODELS,
            "benchmark_phase",
            *_KINDS,
        }
        names = [
            name for name in dict.fromkeys(name for row in rows for name in row.cells) if name not in used
        ]
        return named([self.written(name) for name in names])

    def written(self, name: str) -> str:
        """A column's name as the file has it."""
        return self._names.get(name, name)

    def number(self, cell: Any) -> float:
        """A cell as a number.

        Raises:
            ValueError: it is none.
        """
        found = self.time(cell)
        if found is None:
            raise ValueError(cell)
        return found

    def time(self, cell: Any) -> float | int | None:
        """A cell as a number; None where it is none."""
        if isinstance(cell, (int, float)):
            return cell if not isinstance(cell, bool) and -_MOST < cell < _MOST else None
        if not isinstance(cell, str) or not cell:
            return None
        text = self._numerals.plain(cell)
        try:
            if text.isascii() and text.isdecimal() and len(text) < 20:
                return int(text)
            found = parse_number(text)
        except ValueError:
            return None
        return found if found == found else None

    def count(self, cell: Any) -> int:
        """A cell as a whole number.

        Raises:
            ValueError: it is none.
        """
        found = self.number(cell)
        if not abs(found) < 1e18 or found != int(found):
            raise ValueError(cell)
        return int(found)


def _models(rows: Sequence[Row]) -> str:
    """A note about rows of several models; empty where they name one, or none."""
    name = next((name for name in _MODELS if any(name in row.cells for row in rows)), None)
    models = dict.fromkeys(str(row.cells.get(name)) for row in rows if name and row.cells.get(name))
    if name is None or len(models) < 2:
        return ""
    return f"requests of {len(models)} models ({named(list(models))}) are read as one traffic"


def _no_call(cells: dict[str, Any]) -> str:
    """Why a row is no call of a model; empty where none says what it is of."""
    for name, calls in _KINDS.items():
        kind = cells.get(name)
        if isinstance(kind, str) and kind and kind.lower().rpartition(".")[2] not in calls:
            return f"not a model call (by its {name})"
    return ""


def _clash(row: Row, columns: Columns) -> str:
    wanted = (columns.prompt, columns.output, columns.arrival and columns.arrival.name)
    twice = next((name for name in row.twice if name in wanted), None)
    return f"two values of {twice}" if twice else ""


def _refuse_other_times(sample: Sequence[Row], where: str) -> None:
    """Times under a name that is not known are not replaced by 0."""
    names = dict.fromkeys(name for row in sample[:50] for name in row.cells)
    named = [
        name for name in names
        if TIMES.search(name) and not DURATIONS.search(name) and not name.startswith(("end", "finish"))
        and any(isinstance(row.cells.get(name), (int, float, str)) for row in sample[:50])
    ]  # fmt: skip
    if named:
        raise DataError(
            f"no column of arrival times; are they in {' or '.join(map(repr, named[:3]))}?", where=where,
            hint="rename that column to arrival_s or arrival_ms, or give a rate to draw times with (--rate)",
        )  # fmt: skip


FORMAT = TraceFormat(
    name="records",
    summary="CSV and JSON rows under other names: times, lengths, block ids where said",
    sniff=sniff,
    read=read,
    keys=frozenset(),
    has_ids=True,
    from_first=True,
    example="timestamp (ms);ContextTokens;GeneratedTokens\n1500;1000;20",
)
