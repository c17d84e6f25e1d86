"""Serving runs logged a line a request: CSV with a header, or JSON objects with the same names.

Columns are found by several spellings (``kvplan.scenario.log_columns``). What a log can leave out follows
from the rest: the end-to-end time from the end or from the time per output token. Rows that a log itself
calls failed, and those without a first token, are left out and counted; rows that cannot be are refused with
their line.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

from kvplan.errors import DataError
from kvplan.scenario.log_columns import MOMENTS, SELDOM, Columns, candidates, columns_of, spelled_as_moments
from kvplan.scenario.log_nested import TOKENS, named, token_ends
from kvplan.scenario.log_units import (
    Records,
    arrival_column,
    check_arrivals,
    check_durations,
    epoch_unit,
    is_float,
)
from kvplan.scenario.measured import Measured, is_number, measured_row
from kvplan.traces.columns import COUNTS, Column, delimiter_of, plain_name
from kvplan.traces.dates import TICKS_TO_1970, AmbiguousDates, Dates
from kvplan.traces.formats.instants import TICKS_PER_S

_FAILURES = ("error", "errors", "error_msg", "error_message", "error_code", "failed", "is_failed", "failure",
             "is_error", "has_error", "timed_out", "cancelled", "canceled", "aborted")  # fmt: skip
"""Columns that are empty, or say no, where a request went well."""
_WELL = ("", "none", "null", "false", "no", "0", "0.0", "nan", "[]", "200")
_STATUS = (
    "200",
    "200.0",
    "ok",
    "success",
    "successful",
    "succeeded",
    "completed",
    "complete",
    "finished",
    "done",
)
_FLAG = ("true", "1", "yes", "1.0")
_GOOD = {
    "success": _FLAG, "ok": _FLAG, "successful": _FLAG, "status": (*_STATUS, "stop", "length"),
    "status_code": _STATUS, "http_status": _STATUS, "outcome": _STATUS,
    "finish_reason": ("stop", "length", "eos", "tool_calls", "max_tokens", "end_turn"),
}  # fmt: skip
_OUTCOMES = (*_GOOD, *_FAILURES)
_NOTHING = ("", "none", "null", "nan", "n/a", "-")
"""How logs write that there is no value."""
MAX_SHOWN = 60
"""Characters of a cell that a message repeats."""
_THOUSANDS = re.compile(r"[0-9]{1,3}(,[0-9]{3})+")
_GROUPED = re.compile(rf"{_THOUSANDS.pattern}(\.[0-9]*)?")


def read_table(text: str, path: str, notes: list[str], limit: int | None = None) -> list[Measured]:
    """The rows of a CSV text; the delimiter is the header's.

    ``limit``: requests that the client kept in flight, for logs that do not say when they were sent.

    Raises:
        DataError: a column is missing, or a row unusable (file and line).
    """
    lines = text.splitlines()
    blank = next((number for number, line in enumerate(lines) if line.strip()), None)
    if blank is None:
        raise DataError("the log is empty", where=path)
    lines = lines[blank:]
    delimiter = delimiter_of(lines[0])
    reader = csv.reader(lines, delimiter=delimiter)
    header = [plain_name(name) for name in next(reader)]
    where = f"{path}:{blank + 1}"
    columns = columns_of(header, where, timeless=bool(limit))
    records: Records = []
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as exc:
            raise DataError(f"not CSV: {exc}", where=f"{path}:{blank + reader.line_num}") from exc
        if not cells:
            continue
        place = f"{path}:{blank + reader.line_num}"
        if len(cells) < len(header):
            raise DataError(f"{len(cells)} cells under a header of {len(header)}", where=place)
        records.append((place, dict(zip(header, (cell.strip() for cell in cells), strict=False))))
    return _read(_with_points(records, header, delimiter), columns, header, where, notes, limit)


def _with_points(records: Records, header: Sequence[str], delimiter: str) -> Records:
    """Numbers as Python reads them.

    Where columns are parted by semicolons, a comma is a decimal point; except where counts show that it parts
    thousands.
    """
    counts = [column.name for quantity in COUNTS for column in candidates(quantity, header)]
    thousands = any(_THOUSANDS.fullmatch(record[name]) for _, record in records for name in counts)
    # No group of thousands begins with a 0: then commas are decimal points, in counts too.
    thousands = thousands and not any(
        cell.startswith("0,") for _, record in records for cell in record.values()
    )
    if thousands:
        return [
            (place, {
                name: cell.replace(",", "") if _GROUPED.fullmatch(cell) else cell
                for name, cell in record.items()
            })
            for place, record in records
        ]  # fmt: skip
    if delimiter != ";":
        return records
    return [
        (place, {name: cell.replace(",", ".") for name, cell in record.items()}) for place, record in records
    ]


def read_records(
    objects: Sequence[Any], path: str, notes: list[str], limit: int | None = None
) -> list[Measured]:
    """The rows of JSON objects, one a request; ``limit`` as for ``read_table``.

    Raises:
        DataError: a name is missing, or an object unusable (file and its number).
    """
    for index, item in enumerate(objects):
        if not isinstance(item, dict):
            raise DataError(f"{item!r:.60} is no object", where=f"{path}: request {index}")
    items = [named(item) for item in objects]
    header = list(dict.fromkeys(key for item in items for key in item))
    records = [(f"{path}: request {index}", item) for index, item in enumerate(items)]
    columns = columns_of(header, path, timeless=bool(limit))
    return _read(records, columns, header, path, notes, limit)


def is_record(document: object) -> bool:
    """Whether a JSON object is one request: its first token has one time, or its tokens have one each."""
    if not isinstance(document, dict):
        return False
    if token_ends(document):
        return True
    # Summaries have the same names, with statistics behind them.
    return spelled_as_moments(
        [plain_name(str(key)) for key, value in document.items() if not isinstance(value, (dict, list))]
    )


def _read(
    records: Records,
    found: Columns,
    header: Sequence[str],
    where: str,
    notes: list[str],
    limit: int | None,
) -> list[Measured]:
    columns = dict(found)
    if "arrival" in found:
        columns["arrival"] = arrival_column(records, found, header)
    records = _dated(records, columns, where)
    outcomes = [name for name in _OUTCOMES if name in header]
    first = columns["ttft" if "ttft" in columns else "first"].name
    last = next((columns[name].name for name in ("e2e", "end") if name in columns), first)
    failed, silent, unanswered, unfinished, kept = 0, 0, 0, 0, []
    for place, record in records:
        if any(_is_failure(name, record.get(name)) for name in outcomes):
            failed += 1
        elif _is_zero(record.get(columns["output_tokens"].name)):
            silent += 1
        elif _is_nothing(record.get(first)):
            unanswered += 1
        elif _is_nothing(record.get(last)):
            unfinished += 1
        else:
            kept.append((place, _values(record, columns, place), _gaps(record, columns)))
    for count, what in (
        (failed, "failed requests"),
        (silent, "requests without an output token"),
        (unanswered, f"requests without a {first}"),
        (unfinished, f"requests without a {last}"),
    ):
        if count:
            notes.append(f"{count:,} {what} are left out; they loaded the engine all the same")
    moment = next((name for name in ("arrival", "end") if name in columns), None)
    epoch = 1.0 if moment is None else epoch_unit([v[moment] for _, v, _ in kept], columns[moment], notes)
    rows = [_row(_completed(values, columns, epoch), place, gaps) for place, values, gaps in kept]
    check_durations(rows, columns, where)
    if moment is None:
        assert limit is not None
        notes.append(f"requests are taken to be sent in turn, {limit} in flight: the log does not say when")
        return _in_turn(rows, limit)
    check_arrivals(rows, {**columns, "arrival": columns[moment]}, epoch, where)
    return rows


def _in_turn(rows: Sequence[Measured], limit: int) -> list[Measured]:
    """The requests as a client sends them that keeps ``limit`` in flight.

    What was done between two tokens depends on moments of others to the millisecond, which are not known.
    """
    free, sent = [0.0] * limit, []
    for row in rows:
        sent.append(replace(row, arrival_s=heappop(free), gaps=()))
        heappush(free, sent[-1].arrival_s + row.e2e_s)
    return sent


def _is_failure(name: str, value: Any) -> bool:
    """Whether the outcome column ``name`` says that the request failed."""
    text = "" if value is None else str(value).strip().lower()
    if name in _FAILURES:
        return text not in _WELL
    return text != "" and text not in _GOOD[name]


def _is_zero(value: Any) -> bool:
    """Whether a cell says that nothing was generated."""
    return is_float(value) and float(value) == 0.0


def _is_nothing(value: Any) -> bool:
    """Whether a cell has no value."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING)


def _gaps(record: Mapping[str, Any], columns: Columns) -> list[float]:
    """What lies between one token and the next, in whichever unit, where a record lists that."""
    moments = record.get(TOKENS)
    if moments is not None:
        return [after - before for before, after in pairwise(moments)]
    column = columns.get("tpot")
    cell = None if column is None else record.get(column.name)
    return cell if isinstance(cell, list) and all(map(is_number, cell)) else []


def _row(values: Mapping[str, float], where: str, gaps: Sequence[float]) -> Measured:
    """A request whose gaps, in whichever unit, are all that lies between its first token and its last."""
    rest_s, whole = values["e2e"] - values["ttft"], math.fsum(gaps)
    return measured_row(values, where, [gap * rest_s / whole for gap in gaps] if whole > 0.0 else ())


def _values(record: Mapping[str, Any], columns: Columns, where: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, column in columns.items():
        cell, more = record.get(column.name), found.get("output_tokens", 0.0) - 1.0
        if name in SELDOM and _is_nothing(cell):
            continue
        if name == "tpot" and more == 0.0 and (_is_nothing(cell) or cell == []):
            found[name] = 0.0  # one token has no time per token after it
        elif name == "tpot" and more > 0.0 and isinstance(cell, list) and cell and all(map(is_number, cell)):
            # Every gap, of steps that may have brought several tokens: what they add up to counts.
            found[name] = math.fsum(cell) * column.unit / more
        else:
            found[name] = _value(record, column, where)
    return found


def _value(record: Mapping[str, Any], column: Column, where: str) -> float:
    cell = record.get(column.name)
    said: Any = cell.strip() if isinstance(cell, str) else cell
    if is_float(said) and not isinstance(said, bool):
        return float(said) * column.unit
    raise DataError(f"{column.name} is {_shown(cell)}, not a number", where=where)


def _shown(cell: Any) -> str:
    """A cell as Python writes it, cut where it is long."""
    text = repr(cell)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _dated(records: Records, columns: Columns, where: str) -> Records:
    """Dates among the moments as seconds since 1970: without a zone in UTC, whatever this machine's.

    Raises:
        DataError: days and months cannot be told apart.
    """
    for column in (columns[name] for name in MOMENTS if name in columns):
        cells = (record.get(column.name) for _, record in records)
        texts = {
            cell for cell in cells if isinstance(cell, str) and not (is_float(cell) or _is_nothing(cell))
        }
        if not texts:
            continue
        try:
            dates = Dates(texts)
        except AmbiguousDates:
            raise DataError(
                f"{column.name} has dates like {_shown(min(texts))}, of which either number may be the day",
                where=where, hint="write them as ISO 8601: 2024-05-10 13:00:00",
            ) from None  # fmt: skip
        moments: dict[Any, float] = {}
        for text in texts:
            with suppress(ValueError):
                moments[text] = (dates.ticks(text) - TICKS_TO_1970) / TICKS_PER_S / column.unit
        records = [
            (place, {**record, column.name: moments.get(cell, cell) if isinstance(cell, str) else cell})
            for place, record in records
            for cell in (record.get(column.name),)
        ]
    return records


def _completed(values: Mapping[str, float], columns: Columns, epoch: float) -> dict[str, float]:
    """The quantities of a request from whichever were logged; ``epoch``: what unlabelled moments count."""
    full = dict(values)
    for name in MOMENTS:
        if name in full and not columns[name].labelled:
            full[name] *= epoch
    if "arrival" not in full:
        full["arrival"] = full.pop("end") - full["e2e"] if "end" in full else 0.0
    if "first" in full:
        full["ttft"] = full.pop("first") - full["arrival"]
    if "end" in full:
        full["e2e"] = full.pop("end") - full["arrival"]
        full.pop("tpot", None)
    elif "tpot" in full:
        full["e2e"] = full["ttft"] + full.pop("tpot") * max(full["output_tokens"] - 1.0, 0.0)
    return full
