"""Serving runs logged a line a request: CSV with a header, or JSON objects with the same names.

Columns are found by several spellings; a suffix says the unit of a time. What a log can leave out follows
from the rest: the end-to-end time from the end or from the time per output token. Rows that a log itself
calls failed are left out and counted; rows that cannot be are refused with their line.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from kvplan.errors import DataError
from kvplan.scenario.measured import Measured, measured_row

_TIMES = {
    "arrival": ("arrival", "arrival_time", "start", "start_time", "request_time", "timestamp", "submit_time",
                "request_start", "queued_ts", "arrived_at", "arrival_timestamp", "request_start_time",
                "start_ts", "sent_at", "send_time", "created_at"),
    "ttft": ("ttft", "time_to_first_token", "first_token_latency", "first_token_delay"),
    "e2e": ("e2e", "e2e_latency", "latency", "e2el", "request_latency", "end_to_end", "total_time",
            "end_to_end_latency", "total_latency", "e2e_time"),
    "end": ("end", "end_time", "finish", "finish_time", "completed_at", "last_token_ts",
            "finished_at", "request_end", "request_end_time", "end_ts", "last_token_time"),
    "first": ("first_token", "first_token_ts", "first_token_time", "first_token_at", "first_token_timestamp"),
    "tpot": ("tpot", "time_per_output_token", "itl", "inter_token_latency"),
}  # fmt: skip
_COUNTS = {
    "prompt_tokens": ("prompt_tokens", "input_tokens", "input_len", "prompt_len", "num_prompt_tokens",
                      "num_prefill_tokens", "isl", "num_input_tokens", "number_input_tokens", "prompt_length",
                      "input_length", "input_sequence_length"),
    "output_tokens": ("output_tokens", "completion_tokens", "output_len", "generated_tokens",
                      "num_generation_tokens", "num_decode_tokens", "osl", "num_output_tokens",
                      "number_output_tokens", "output_length", "output_sequence_length"),
    "cached_tokens": ("cached_tokens", "num_cached_tokens"),
}  # fmt: skip
_FAILURES = ("error", "errors", "error_msg", "error_message", "error_code")
"""Columns that are empty where a request went well."""
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
_UNITS = {"": 1.0} | {
    f"_{name}": factor
    for factor, names in (
        (1.0, ("s", "sec", "secs", "second", "seconds")), (1e-3, ("ms", "msec", "millis", "milliseconds")),
        (1e-6, ("us", "usec", "micros", "microseconds")), (1e-9, ("ns", "nsec", "nanos", "nanoseconds")),
    )
    for name in names
}  # fmt: skip
_MOMENTS = ("arrival", "end", "first")
_INSTEAD = {"e2e": ("end", "tpot"), "ttft": ("first",)}
"""What a missing column follows from."""
_EPOCHS = ((1e17, 1e-9, "nanoseconds"), (1e14, 1e-6, "microseconds"), (1e11, 1e-3, "milliseconds"))
"""Moments larger than this, without a unit, count these since 1970."""
MOST_TPOT_S, LEAST_TPOT_S = 1.0, 1e-4
"""A median time per output token beyond these is no engine's: the unit is another one."""

Columns = Mapping[str, tuple[str, float]]
"""Quantity to (column, factor to base units)."""


def read_table(text: str, path: str, notes: list[str]) -> list[Measured]:
    """The rows of a CSV text; the delimiter is the header's.

    Raises:
        DataError: a column is missing, or a row unusable (file and line).
    """
    lines = text.splitlines()
    if not lines:
        raise DataError("the log is empty", where=path)
    delimiter = max(",;\t", key=lines[0].count)
    reader = csv.reader(lines, delimiter=delimiter)
    header = [_plain(name) for name in next(reader)]

    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as exc:
                raise DataError(f"not CSV: {exc}", where=f"{path}:{reader.line_num}") from exc
            if cells:
                # Where columns are parted by semicolons, a comma is a decimal point.
                values = [
                    cell.strip() if delimiter != ";" else cell.strip().replace(",", ".") for cell in cells
                ]
                values += [""] * (len(header) - len(values))
                yield f"{path}:{reader.line_num}", dict(zip(header, values, strict=False))

    return _read(records(), header, f"{path}:1", notes)


def read_records(objects: Sequence[Any], path: str, notes: list[str]) -> list[Measured]:
    """The rows of JSON objects, one a request.

    Raises:
        DataError: a name is missing, or an object unusable (file and its number).
    """
    for index, item in enumerate(objects):
        if not isinstance(item, dict):
            raise DataError(f"{item!r:.60} is no object", where=f"{path}: request {index}")
    named = [{_plain(str(key)): value for key, value in item.items()} for item in objects]
    header = list(dict.fromkeys(key for item in named for key in item))
    records = ((f"{path}: request {index}", item) for index, item in enumerate(named))
    return _read(records, header, path, notes)


def is_record(document: object) -> bool:
    """Whether a JSON object is one request: its first token has one time."""
    if not isinstance(document, dict):
        return False
    # Summaries have the same names, with statistics behind them.
    names = {_plain(str(key)) for key, value in document.items() if not isinstance(value, (dict, list))}
    firsts = _TIMES["ttft"] + _TIMES["first"]
    return any(name + suffix in names for name in firsts for suffix in _UNITS)


def _plain(name: str) -> str:
    """A column's name as it is looked up: ``TTFT (ms)``, ``promptTokens`` and ``ttft_ms`` alike."""
    parted = re.sub(r"([a-z])([A-Z])", r"\1_\2", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")


def _read(
    records: Iterator[tuple[str, dict[str, Any]]], header: Sequence[str], where: str, notes: list[str]
) -> list[Measured]:
    columns = _columns(header, where)
    outcomes = [name for name in _OUTCOMES if name in header]
    failed, silent, kept = 0, 0, []
    for place, record in records:
        if any(_is_failure(name, record.get(name)) for name in outcomes):
            failed += 1
            continue
        if _is_zero(record.get(columns["output_tokens"][0])):
            silent += 1
            continue
        kept.append((place, {name: _value(name, record, *columns[name], place) for name in columns}))
    if failed:
        notes.append(f"{failed:,} failed requests are left out; they loaded the engine all the same")
    if silent:
        notes.append(
            f"{silent:,} requests without an output token are left out; they loaded the engine all the same"
        )
    epoch = _epoch([values["arrival"] for _, values in kept], columns, notes)
    rows = [measured_row(_completed(values, epoch), place) for place, values in kept]
    _check_units(rows, columns, where)
    return rows


def _columns(header: Sequence[str], where: str) -> dict[str, tuple[str, float]]:
    found: dict[str, tuple[str, float]] = {}
    for name, spellings in _TIMES.items():
        for spelling in spellings:
            for suffix, unit in _UNITS.items():
                if spelling + suffix in header and name not in found:
                    found[name] = (spelling + suffix, unit)
    for name, spellings in _COUNTS.items():
        for spelling in spellings:
            if spelling in header and name not in found:
                found[name] = (spelling, 1.0)
    for name in ("arrival", "prompt_tokens", "output_tokens", "ttft", "e2e"):
        if name not in found and not any(other in found for other in _INSTEAD.get(name, ())):
            spellings = {**_TIMES, **_COUNTS}[name]
            raise DataError(
                f"the log has no column for {name}; it has {', '.join(header)[:200]}",
                where=where, hint=f"name it one of {', '.join(spellings)} (times may end in _s or _ms)",
            )  # fmt: skip
    for name, others in _INSTEAD.items():
        for other in others if name in found else ():
            found.pop(other, None)
    return found


def _is_failure(name: str, value: Any) -> bool:
    """Whether the outcome column ``name`` says that the request failed."""
    text = "" if value is None else str(value).strip().lower()
    if name in _FAILURES:
        return text not in ("", "none", "null", "false", "0", "0.0", "nan", "[]", "200")
    return text != "" and text not in _GOOD[name]


def _is_zero(value: Any) -> bool:
    """Whether a cell says that nothing was generated."""
    try:
        return float(value) == 0.0
    except (TypeError, ValueError):
        return False


def _value(name: str, record: Mapping[str, Any], column: str, unit: float, where: str) -> float:
    cell = record.get(column)
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return cell * unit
    text = cell.strip() if isinstance(cell, str) else ""
    try:
        return float(text) * unit
    except ValueError:
        pass
    if name in _MOMENTS:
        try:
            return _seconds(datetime.fromisoformat(text))
        except ValueError:
            pass
    raise DataError(f"{column} is {cell!r}, not a number", where=where)


def _seconds(moment: datetime) -> float:
    """Seconds since 1970; a moment without a zone counts as UTC, whatever the zone of this machine."""
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _epoch(arrivals: Sequence[float], columns: Columns, notes: list[str]) -> float:
    """What unnamed moments count, in seconds: large ones count fractions of them since 1970."""
    column, _ = columns["arrival"]
    if any(column.endswith(suffix) for suffix in _UNITS if suffix) or not arrivals:
        return 1.0
    least = min(arrivals)
    for limit, unit, name in _EPOCHS:
        if least > limit:
            notes.append(f"{column} is taken to be in {name} since 1970")
            return unit
    return 1.0


def _completed(values: Mapping[str, float], epoch: float) -> dict[str, float]:
    """The quantities of a request from whichever were logged."""
    full = dict(values)
    for name in _MOMENTS:
        if name in full:
            full[name] *= epoch
    if "first" in full:
        full["ttft"] = full.pop("first") - full["arrival"]
    if "end" in full:
        full["e2e"] = full.pop("end") - full["arrival"]
        full.pop("tpot", None)
    elif "tpot" in full:
        full["e2e"] = full["ttft"] + full.pop("tpot") * max(full["output_tokens"] - 1.0, 0.0)
    return full


def _check_units(rows: Sequence[Measured], columns: Columns, where: str) -> None:
    """Refuse times that no engine needs: their unit is another one.

    Raises:
        DataError: the median time per output token is beyond anything that is served.
    """
    found = sorted(tpot for row in rows if (tpot := row.tpot_s) is not None and tpot > 0.0)
    if not found:
        return
    middle = found[len(found) // 2]
    if LEAST_TPOT_S <= middle <= MOST_TPOT_S:
        return
    names = ", ".join(
        column for name, (column, _) in columns.items() if name in ("ttft", "e2e", "tpot", "end")
    )
    size = "long" if middle > MOST_TPOT_S else "short"
    raise DataError(
        f"an output token takes {middle:.3g} s in the median, too {size} for any engine",
        where=where, hint=f"say the unit in the names of {names}: _s, _ms, _us or _ns",
    )  # fmt: skip


def parse_lines(text: str) -> list[Any] | None:
    """The JSON values of a text that holds one on each line; None if it does not."""
    found = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            found.append(json.loads(line, parse_constant=refuse_nan))
        except (ValueError, RecursionError):
            return None
    return found


def refuse_nan(constant: str) -> float:
    """For ``json.loads``: infinity is a rate, NaN is nothing.

    Raises:
        ValueError: NaN.
    """
    if constant == "Infinity":
        return math.inf
    raise ValueError(f"{constant} is not a number")
