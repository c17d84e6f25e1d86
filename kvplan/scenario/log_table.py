"""Serving runs logged a line a request: CSV with a header, or JSON objects with the same names.

Columns are found by several spellings; a suffix says the unit of a time. What a log can leave out follows
from the rest: the end-to-end time from the end or from the time per output token. Rows that a log itself
calls failed are left out and counted; rows that cannot be are refused with their line.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from kvplan.errors import DataError
from kvplan.scenario.measured import Measured, measured_row

_TIMES = {
    "arrival": ("arrival", "arrival_time", "start", "start_time", "request_time", "timestamp", "submit_time",
                "request_start", "queued_ts"),
    "ttft": ("ttft", "time_to_first_token", "first_token_latency"),
    "e2e": ("e2e", "e2e_latency", "latency", "e2el", "request_latency", "end_to_end", "total_time"),
    "end": ("end", "end_time", "finish", "finish_time", "completed_at", "last_token_ts"),
    "first": ("first_token", "first_token_ts", "first_token_time"),
    "tpot": ("tpot", "time_per_output_token", "itl", "inter_token_latency"),
}  # fmt: skip
_COUNTS = {
    "prompt_tokens": ("prompt_tokens", "input_tokens", "input_len", "prompt_len", "num_prompt_tokens",
                      "num_prefill_tokens", "isl"),
    "output_tokens": ("output_tokens", "completion_tokens", "output_len", "generated_tokens",
                      "num_generation_tokens", "num_decode_tokens", "osl"),
    "cached_tokens": ("cached_tokens", "num_cached_tokens"),
}  # fmt: skip
_OUTCOMES = ("success", "ok", "status", "error", "errors")
_GOOD = {
    "success": ("true", "1", "yes", "1.0"),
    "ok": ("true", "1", "yes", "1.0"),
    "status": ("200", "ok", "success", "succeeded", "completed", "finished", "stop", "length"),
}
_UNITS = {"": 1.0, "_s": 1.0, "_sec": 1.0, "_seconds": 1.0, "_ms": 1e-3, "_us": 1e-6, "_ns": 1e-9}
_MOMENTS = ("arrival", "end", "first")
_INSTEAD = {"e2e": ("end", "tpot"), "ttft": ("first",)}
"""What a missing column follows from."""
_EPOCHS = ((1e17, 1e-9, "nanoseconds"), (1e14, 1e-6, "microseconds"), (1e11, 1e-3, "milliseconds"))
"""Moments larger than this, without a unit, count these since 1970."""
MOST_TPOT_S, LEAST_TPOT_S = 2.0, 1e-4
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
    header = [name.strip().lower() for name in next(reader)]

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
    named = [{str(key).strip().lower(): value for key, value in item.items()} for item in objects]
    header = list(dict.fromkeys(key for item in named for key in item))
    records = ((f"{path}: request {index}", item) for index, item in enumerate(named))
    return _read(records, header, path, notes)


def is_record(document: object) -> bool:
    """Whether a JSON object is one request: its time to first token is one number."""
    if not isinstance(document, dict):
        return False
    names = {str(key).strip().lower() for key in document}
    return any(name + suffix in names for name in _TIMES["ttft"] for suffix in _UNITS)


def _read(
    records: Iterator[tuple[str, dict[str, Any]]], header: Sequence[str], where: str, notes: list[str]
) -> list[Measured]:
    columns = _columns(header, where)
    outcomes = [name for name in _OUTCOMES if name in header]
    failed, kept = 0, []
    for place, record in records:
        if any(_is_failure(name, record.get(name)) for name in outcomes):
            failed += 1
            continue
        kept.append((place, {name: _value(name, record, *columns[name], place) for name in columns}))
    if failed:
        notes.append(f"{failed:,} failed requests are left out; they loaded the engine all the same")
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
    if name in ("error", "errors"):
        return text not in ("", "none", "null", "false", "0", "nan", "[]")
    return text != "" and text not in _GOOD[name]


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
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            pass
    raise DataError(f"{column} is {cell!r}, not a number", where=where)


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
