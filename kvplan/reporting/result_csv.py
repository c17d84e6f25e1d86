"""A result's latencies, totals and strategy figures as CSV, one value a row, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from kvplan.reporting.result import Result
from kvplan.reporting.schema.cost import Cost
from kvplan.reporting.schema.step_time import StepTime

COLUMNS = ("group", "name", "statistic", "value", "unit")
Row = tuple[str, str, str, int | float | str, str]


def table_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """RFC 4180 text with ``\\n`` line ends."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def result_csv(result: Result) -> str:
    """Raw numbers in base units, an empty ``value`` for none."""
    shown = (
        (inert(group), inert(name), statistic, inert(value) if isinstance(value, str) else value, inert(unit))
        for group, name, statistic, value, unit in _rows(result)
    )
    return table_csv(COLUMNS, shown)


def _rows(result: Result) -> Iterator[Row]:
    yield "run", "complete", "", "true" if result.complete else "false", ""
    for name, value in result.totals.model_dump().items():
        yield "totals", name.removesuffix("_s"), "", value, _unit(name)
    if result.hit_ratio is not None:
        yield "totals", "hit_ratio", "", result.hit_ratio, "ratio"
    for name, value in result.throughput.model_dump().items():
        yield "throughput", name.removesuffix("_per_s"), "", value, "1/s"
    if result.cost is not None:
        yield from _cost(result.cost)
    if result.step_time is not None:
        yield from _step_time(result.step_time)
    for name, statistics in result.latency.model_dump().items():
        latency = name.removesuffix("_s")
        if statistics is None:
            yield "latency", latency, "count", 0, "requests"
            continue
        for statistic, value in statistics.items():
            yield "latency", latency, statistic, value, "requests" if statistic == "count" else "s"
    if result.accuracy.intervals is not None:
        for name, intervals in result.accuracy.intervals.model_dump().items():
            for statistic, (low, high) in (intervals or {}).items():
                yield "interval", name.removesuffix("_s"), f"{statistic}_low", low, "s"
                yield "interval", name.removesuffix("_s"), f"{statistic}_high", high, "s"
    for slo in result.slo:
        yield "slo", slo.name, "limit", slo.limit_s, "s"
        yield "slo", slo.name, "value", "" if slo.value_s is None else slo.value_s, "s"
        yield "slo", slo.name, "passed", "true" if slo.passed else "false", ""
    if result.memory is not None:
        for item in result.memory.bill:
            yield "memory", item.name, "", item.bytes, "B"
        yield "memory", "total", "", result.memory.total_bytes, "B"
    for section, metrics in result.strategies.items():
        for metric in metrics:
            value = "" if metric.value is None else metric.value
            yield f"strategy {section}", metric.name, "", value, metric.unit


def _cost(cost: Cost) -> Iterator[Row]:
    yield "cost", "gpus", "", cost.gpus, "count"
    for name in ("per_hour", "total", "per_million_output_tokens", "per_million_tokens"):
        value = getattr(cost, name)
        yield "cost", name, "", "" if value is None else value, cost.currency


def _step_time(time: StepTime) -> Iterator[Row]:
    yield "step time", "busy", "", time.busy_s, "s"
    for group in ("parts", "bound"):
        for name, share in getattr(time, group).model_dump().items():
            yield "step time", group, name, share, "ratio"
    yield "step time", "peak", "compute", time.peak_compute, "ratio"
    yield "step time", "peak", "bandwidth", time.peak_bandwidth, "ratio"


def _unit(name: str) -> str:
    if name.endswith("_s"):
        return "s"
    return next((unit for unit in ("tokens", "blocks") if name.endswith(unit)), "count")


def inert(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
