"""Serving runs as aiperf exports them: ``profile_export.jsonl``, metadata and metrics of a request a line.

Every metric says its unit. Requests that failed, were cancelled or belong to the warm-up are left out and
counted. What GenAI-Perf and aiperf write beside it is refused by name: summaries hold no requests, and the
raw export of perf_analyzer holds texts without their token counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.errors import DataError
from kvplan.scenario.measured import Measured, is_number, measured_row

_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_TIMES = {"ttft": "time_to_first_token", "e2e": "request_latency"}
_COUNTS = {
    "prompt_tokens": ("input_sequence_length",),
    # Reasoning is generated, too: the count without it is the second choice.
    "output_tokens": ("output_sequence_length", "output_token_count"),
}
_CACHED, _GAPS = "usage_prompt_cache_read_tokens", "inter_chunk_latency"
_PHASE, _MEASURED = "benchmark_phase", "profiling"
START = "request_start_ns"
NO_REQUESTS = (
    "of GenAI-Perf and aiperf, give profile_export.jsonl of a run with --streaming, or a CSV with a line a "
    "request"
)


def is_aiperf(document: object) -> bool:
    """Whether a JSON object is one request as aiperf exports it."""
    if not isinstance(document, dict):
        return False
    metadata = document.get("metadata")
    return isinstance(metadata, dict) and START in metadata and "metrics" in document


def phases(objects: Sequence[Any]) -> list[list[Any]]:
    """The requests of each phase that is measured; the warm-up and what is none is in the first."""
    found: dict[object, list[Any]] = {}
    for item in objects:
        metadata = item["metadata"] if is_aiperf(item) else {}
        measured = metadata.get(_PHASE, _MEASURED) == _MEASURED
        found.setdefault(metadata.get("phase_index") if measured else None, []).append(item)
    others = found.pop(None, [])
    first, *later = found.values() or [[]]
    return [[*others, *first], *later]


def read_aiperf(objects: Sequence[Any], path: str, notes: list[str]) -> list[Measured]:
    """The rows of the export.

    Raises:
        DataError: a request lacks a metric, or has one that cannot be (its number is told).
    """
    rows, failed, warming = [], 0, 0
    for index, item in enumerate(objects):
        where = f"{path}: request {index}"
        if not is_aiperf(item):
            raise DataError("not an exported request like the others", where=where)
        metadata, metrics = item["metadata"], item["metrics"]
        if metadata.get(_PHASE, _MEASURED) != _MEASURED:
            warming += 1
        elif item.get("error") or metadata.get("was_cancelled") or not isinstance(metrics, dict):
            failed += 1
        else:
            rows.append(measured_row(_values(metadata, metrics, where), where, _gaps(metrics)))
    if failed:
        notes.append(f"{failed:,} failed requests are left out; they loaded the engine all the same")
    if warming:
        notes.append(f"{warming:,} requests of the warm-up are left out")
    return rows


def refuse_summary(document: Mapping[str, Any], path: str) -> None:
    """Refuse what GenAI-Perf and aiperf write beside the requests.

    Raises:
        DataError: it is a summary, or the raw export of perf_analyzer.
    """
    if isinstance(document.get("experiments"), list):
        raise DataError(
            "this export of GenAI-Perf holds texts and moments, but not how many tokens they are",
            where=path, hint=NO_REQUESTS,
        )  # fmt: skip
    if any(isinstance(document.get(name), dict) for name in _TIMES.values()):
        raise DataError("this is a summary without the requests behind it", where=path, hint=NO_REQUESTS)


def _values(metadata: Mapping[str, Any], metrics: Mapping[str, Any], where: str) -> dict[str, float]:
    start = metadata[START]
    if not is_number(start):
        raise DataError(f"{START} is {start!r}, not a number", where=where)
    values = {"arrival": start * 1e-9}
    for name, metric in _TIMES.items():
        value, unit = _metric(metrics, (metric,), where)
        if unit not in _SECONDS:
            raise DataError(f"{metric} is in {unit!r}, not a unit of time", where=where)
        values[name] = value * _SECONDS[unit]
    for name, choices in _COUNTS.items():
        values[name], _ = _metric(metrics, choices, where)
    if _CACHED in metrics:
        values["cached_tokens"], _ = _metric(metrics, (_CACHED,), where)
    return values


def _gaps(metrics: Mapping[str, Any]) -> list[float]:
    """Seconds between one piece of the answer and the next, where the record lists them."""
    found = metrics.get(_GAPS)
    values, unit = (found.get("value"), found.get("unit")) if isinstance(found, dict) else (None, None)
    if not isinstance(values, list) or unit not in _SECONDS or not all(map(is_number, values)):
        return []
    return [value * _SECONDS[unit] for value in values]


def _metric(metrics: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[float, str]:
    for name in names:
        found = metrics.get(name)
        if isinstance(found, dict):
            value = found.get("value")
            if not is_number(value):
                raise DataError(f"{name} is {value!r}, not a number", where=where)
            return float(value), str(found.get("unit", ""))
    hint = "time_to_first_token is exported with --streaming" if names == (_TIMES["ttft"],) else None
    raise DataError(f"the request has no {names[0]}", where=where, hint=hint)
