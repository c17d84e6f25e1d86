"""A result's latencies, totals and strategy figures as CSV, one value a row, for spreadsheets and scripts."""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.reporting.csv import table_csv
from kvplan.reporting.result import Result
from kvplan.reporting.schema.cost import Cost
from kvplan.reporting.schema.step_time import StepTime

COLUMNS = ("group", "name", "statistic", "value", "unit")
Row = tuple[str, str, str, int | float | str | bool | None, str]


def result_csv(result: Result) -> str:
    """Raw numbers in base units, an empty ``value`` for none."""
    return table_csv(COLUMNS, _rows(result))


def _rows(result: Result) -> Iterator[Row]:
    yield "run", "complete", "", result.complete, ""
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
        yield "slo", slo.name, "value", slo.value_s, "s"
        yield "slo", slo.name, "passed", slo.passed, ""
    if result.memory is not None:
        for item in result.memory.bill:
            yield "memory", item.name, "", item.bytes, "B"
        yield "memory", "total", "", result.memory.total_bytes, "B"
    for section, metrics in result.strategies.items():
        for metric in metrics:
            yield f"strategy {section}", metric.name, "", metric.value, metric.unit


def _cost(cost: Cost) -> Iterator[Row]:
    yield "cost", "gpus", "", cost.gpus, "count"
    for name in ("per_hour", "total", "per_million_output_tokens", "per_million_tokens"):
        yield "cost", name, "", getattr(cost, name), cost.currency


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
