"""Reading what a serving run measured: per request its arrival, lengths, time to first token and end to end.

Three shapes are understood: CSV with a header (several namings of each column), the JSON of
``vllm bench serve --save-result --save-detailed``, and a line of SGLang's ``bench_serving --output-details``.
"""

from __future__ import annotations

import csv
import heapq
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvplan.errors import DataError, UsageError

MAX_BYTES = 512 << 20
MAX_REQUESTS = 3_000
"""Requests a fit simulates, some forty times; the first ones of a longer log."""
FEWEST = 40
"""Requests below which two halves say nothing about percentiles."""
MAX_TOKENS = 1 << 20

_TIMES = {
    "arrival": ("arrival", "arrival_time", "start", "start_time", "request_time", "timestamp", "submit_time"),
    "ttft": ("ttft", "time_to_first_token", "first_token_latency"),
    "e2e": ("e2e", "e2e_latency", "latency", "e2el", "request_latency", "end_to_end", "total_time"),
}
_COUNTS = {
    "prompt_tokens": ("prompt_tokens", "input_tokens", "input_len", "prompt_len", "num_prompt_tokens",
                      "num_prefill_tokens", "isl"),
    "output_tokens": ("output_tokens", "completion_tokens", "output_len", "generated_tokens",
                      "num_generation_tokens", "num_decode_tokens", "osl"),
    "cached_tokens": ("cached_tokens", "num_cached_tokens"),
}  # fmt: skip
_UNITS = {"": 1.0, "_s": 1.0, "_sec": 1.0, "_seconds": 1.0, "_ms": 1e-3, "_us": 1e-6, "_ns": 1e-9}


@dataclass(frozen=True, slots=True)
class Measured:
    """One request: seconds from the first arrival, tokens, seconds. ``cached_tokens`` None: not said."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    e2e_s: float
    cached_tokens: int | None = None

    def later(self, seconds: float) -> Measured:
        """The same with its first token, and its last, so much later."""
        return replace(self, ttft_s=self.ttft_s + seconds, e2e_s=self.e2e_s + seconds)

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first."""
        if self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class EngineLog:
    """The requests by arrival, and what was done to them on reading.

    ``max_in_flight``: how many requests the client kept in flight at most, as it or the user says; 0 says
    that there was no limit, None that nobody says.
    """

    path: str
    format: str
    rows: tuple[Measured, ...]
    notes: tuple[str, ...]
    max_in_flight: int | None = None


def read_engine_log(path: Path, max_in_flight: int | None = None) -> EngineLog:
    """Read a serving run; the content, not the suffix, says whether it is JSON.

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
        raise DataError("not UTF-8 text", where=str(path), hint="save the log as UTF-8 CSV or JSON") from exc
    notes: list[str] = []
    if text.lstrip()[:1] == "{":
        form, rows, said = _benchmark(text, str(path), notes, max_in_flight)
        max_in_flight = said if max_in_flight is None else max_in_flight
    else:
        form, rows = "csv", list(_csv(text, str(path)))
    if len(rows) < FEWEST:
        raise DataError(
            f"{len(rows)} requests are too few to fit on one half and test on the other",
            where=str(path), hint=f"log {FEWEST} requests at least",
        )  # fmt: skip
    rows.sort(key=lambda row: row.arrival_s)
    if len(rows) > MAX_REQUESTS:
        notes.append(f"only the first {MAX_REQUESTS:,} of {len(rows):,} requests are used")
        rows = rows[:MAX_REQUESTS]
    first = rows[0].arrival_s
    shifted = tuple(
        Measured(row.arrival_s - first, row.prompt_tokens, row.output_tokens, row.ttft_s, row.e2e_s,
                 row.cached_tokens)
        for row in rows
    )  # fmt: skip
    return EngineLog(str(path), form, shifted, tuple(notes), max_in_flight)


# -- CSV --------------------------------------------------------------------------------------------------


def _csv(text: str, path: str) -> Iterator[Measured]:
    reader = csv.reader(text.splitlines())
    try:
        header = next(reader)
    except StopIteration:
        raise DataError("the log is empty", where=path) from None
    columns = _columns([name.strip().lower() for name in header], path)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            raise DataError(f"not CSV: {exc}", where=f"{path}:{reader.line_num}") from exc
        if not cells:
            continue
        where = f"{path}:{reader.line_num}"
        values: dict[str, float] = {}
        for name, (index, unit) in columns.items():
            cell = cells[index].strip() if index < len(cells) else ""
            try:
                values[name] = float(cell) * unit
            except ValueError:
                raise DataError(f"{header[index]} is {cell!r}, not a number", where=where) from None
        yield _row(values, where)


def _columns(header: Sequence[str], path: str) -> dict[str, tuple[int, float]]:
    """Column index and factor to base units of each quantity."""
    found: dict[str, tuple[int, float]] = {}
    for name, spellings in _TIMES.items():
        for spelling in spellings:
            for suffix, unit in _UNITS.items():
                if spelling + suffix in header and name not in found:
                    found[name] = (header.index(spelling + suffix), unit)
    for name, spellings in _COUNTS.items():
        for spelling in spellings:
            if spelling in header and name not in found:
                found[name] = (header.index(spelling), 1.0)
    known = {**_TIMES, **_COUNTS}
    for name, spellings in known.items():
        if name not in found and name != "cached_tokens":
            raise DataError(
                f"the log has no column for {name}; it has {', '.join(header)[:200]}",
                where=f"{path}:1", hint=f"name it one of {', '.join(spellings)} (times may end in _s or _ms)",
            )  # fmt: skip
    return found


def _row(values: Mapping[str, float], where: str) -> Measured:
    for name, value in values.items():
        if not math.isfinite(value) or (value < 0 and name != "arrival"):
            raise DataError(f"{name} is {value!r}, not a finite number >= 0", where=where)
    prompt, output = values["prompt_tokens"], values["output_tokens"]
    for name, value in (("prompt_tokens", prompt), ("output_tokens", output)):
        if value != int(value) or not 1 <= value < MAX_TOKENS:
            raise DataError(
                f"{name} is {value:g}, not a whole number from 1 to {MAX_TOKENS - 1:,}", where=where
            )
    if not 0 < values["ttft"] <= values["e2e"] * (1 + 1e-9):
        raise DataError(
            f"ttft {values['ttft']:g} s and end-to-end {values['e2e']:g} s: the first token comes after 0 s "
            "and not after the last",
            where=where, hint="check the units of the columns: _s, _ms",
        )  # fmt: skip
    cached = values.get("cached_tokens")
    if cached is not None and (cached != int(cached) or cached > prompt):
        raise DataError(
            f"cached_tokens is {cached:g}, not a whole number of the prompt's {prompt:g} tokens", where=where
        )
    return Measured(
        values["arrival"], int(prompt), int(output), values["ttft"], max(values["e2e"], values["ttft"]),
        None if cached is None else int(cached),
    )  # fmt: skip


# -- benchmark results ------------------------------------------------------------------------------------


def _benchmark(
    text: str, path: str, notes: list[str], max_in_flight: int | None
) -> tuple[str, list[Measured], int | None]:
    """(format, rows, the client's limit)."""
    document = _single(text, path)
    lists = {}
    for name in ("input_lens", "output_lens", "ttfts", "itls"):
        value = document.get(name)
        if not isinstance(value, list):
            raise DataError(
                f"the benchmark result has no list {name!r}", where=path,
                hint="run vllm bench serve with --save-result --save-detailed, or SGLang's bench_serving "
                "with --output-details",
            )  # fmt: skip
        lists[name] = value
    sizes = {name: len(value) for name, value in lists.items()}
    if len(set(sizes.values())) != 1:
        raise DataError(f"lists of different lengths: {sizes}", where=path)
    count = sizes["ttfts"]
    limit = _limit(document, path)
    limit = limit if max_in_flight is None else max_in_flight
    starts = _arrivals(document, lists, limit or None, path, notes)
    errors = document.get("errors")
    rows, failed = [], 0
    for index in range(count):
        where = f"{path}: request {index}"
        if (isinstance(errors, list) and index < len(errors) and errors[index]) or not lists["output_lens"][
            index
        ]:
            failed += 1
            continue
        gaps = lists["itls"][index]
        numbers = [
            lists["input_lens"][index],
            lists["output_lens"][index],
            lists["ttfts"][index],
            starts[index],
        ]
        if not isinstance(gaps, list) or not all(map(_is_number, [*numbers, *gaps])):
            raise DataError("a length or time is not a number", where=where)
        prompt, output, ttft, start = numbers
        values = {"arrival": start, "prompt_tokens": prompt, "output_tokens": output, "ttft": ttft,
                  "e2e": ttft + math.fsum(gaps)}  # fmt: skip
        rows.append(_row({name: float(value) for name, value in values.items()}, where))
    if failed:
        notes.append(f"{failed:,} failed requests are left out; they loaded the engine all the same")
    return ("vllm-bench" if "start_times" in document else "sglang-bench"), rows, limit


def _single(text: str, path: str) -> dict[str, Any]:
    """The one JSON object of the file; SGLang appends a line a run."""
    try:
        document = json.loads(text, parse_constant=_infinity)
    except RecursionError as exc:
        raise DataError("not a benchmark result: nested too deep", where=path) from exc
    except ValueError as exc:
        lines = [line for line in text.splitlines() if line.strip()]
        whole = [line for line in lines if _is_object(line)]
        if len(whole) > 1 and len(whole) == len(lines):
            raise DataError(
                f"the file holds {len(lines)} runs, one a line", where=path, hint="keep the line of one run"
            ) from exc
        raise DataError(f"not JSON: {exc}", where=path) from exc
    if not isinstance(document, dict):
        raise DataError("not a benchmark result", where=path)
    return document


def _limit(document: Mapping[str, Any], path: str) -> int | None:
    """The ``max_concurrency`` of a benchmark; None where it had none."""
    limit = document.get("max_concurrency")
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise DataError(f"max_concurrency is {limit!r}, not a number of requests", where=path)
    return limit


def _in_turn(lists: Mapping[str, list[Any]], limit: int, path: str) -> list[float]:
    """When a client that keeps ``limit`` requests in flight sent each, from how long each took."""
    free, starts = [0.0] * limit, []
    for index, (ttft, gaps) in enumerate(zip(lists["ttfts"], lists["itls"], strict=True)):
        if not isinstance(gaps, list) or not all(map(_is_number, [ttft, *gaps])):
            raise DataError("a length or time is not a number", where=f"{path}: request {index}")
        start = heapq.heappop(free)
        starts.append(start)
        heapq.heappush(free, start + math.fsum([ttft, *gaps]))
    return starts


def _arrivals(
    document: Mapping[str, Any],
    lists: Mapping[str, list[Any]],
    limit: int | None,
    path: str,
    notes: list[str],
) -> list[Any]:
    count = len(lists["ttfts"])
    starts = document.get("start_times")
    if isinstance(starts, list):
        if len(starts) != count:
            raise DataError(f"{len(starts)} start_times for {count} requests", where=path)
        return starts
    rate = document.get("request_rate")
    if limit is not None:
        if rate not in ("inf", math.inf, None):
            raise DataError(
                f"the client sent {rate} requests/s with at most {limit} in flight, and the file does not "
                "say when each was sent",
                where=path, hint="log arrival times: a vLLM that writes start_times, or a CSV that has them",
            )  # fmt: skip
        notes.append(f"requests are taken to be sent in turn, {limit} in flight: the file does not say when")
        return list(_in_turn(lists, limit, path))
    if rate in ("inf", math.inf):
        notes.append("all requests are sent at once, as request_rate inf says")
        return [0.0] * count
    if not _is_number(rate) or rate <= 0:  # type: ignore[operator]
        raise DataError(
            "the file says neither start_times nor request_rate",
            where=path,
            hint="log arrival times in a CSV",
        )
    notes.append(f"arrival times are drawn at {rate:g} requests/s: the file does not say them")
    stream, clock, drawn = random.Random("engine-log/arrivals"), 0.0, []
    for _ in range(count):
        drawn.append(clock)
        clock += stream.expovariate(float(rate))  # type: ignore[arg-type]
    return drawn


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _infinity(constant: str) -> float:
    if constant == "Infinity":
        return math.inf
    raise ValueError(f"{constant} is not a number")
