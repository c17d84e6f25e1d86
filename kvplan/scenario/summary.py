"""Numbers of a finished run as the objects of ``kvplan.result/1``."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from operator import add
from typing import Any

from kvplan.engine.recorder import Recorder
from kvplan.latency.client import NO_OVERHEAD, ClientOverhead
from kvplan.scenario.schema import SloPart

AT_CLIENT = ("ttft_s", "e2e_s")
"""Latencies that hold what a client waits for beside the engine."""


def latency_objects(
    recorder: Recorder, client: ClientOverhead = NO_OVERHEAD
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The ``latency`` and ``distributions`` objects: exact quantiles over all finished requests.

    Args:
        client: what a client waits for beside the engine; part of its TTFT and end-to-end time.
    """
    latency: dict[str, Any] = {}
    distributions: dict[str, list[float]] = {}
    for name in ("ttft_s", "tpot_s", "e2e_s", "queue_s"):
        values: array[float] = getattr(recorder, name)
        if name in AT_CLIENT:
            values = at_client(values, recorder, client)
        latency[name], distributions[name] = _summarize(values)
    return latency, distributions


def at_client(values: array[float], recorder: Recorder, client: ClientOverhead) -> array[float]:
    """The recorder's times, one a finished request, as their clients see them."""
    if recorder.outside_s:
        return array("d", map(add, values, recorder.outside_s))
    return array("d", [value + client.seconds for value in values]) if client.seconds else values


def recorder_of(client: ClientOverhead, **listeners: Any) -> Recorder:
    """A recorder that notes what each client waits for beside the engine, where they differ."""
    return Recorder(outside=client.of if client.varies else None, **listeners)


def _summarize(values: array[float]) -> tuple[dict[str, float] | None, list[float]]:
    if not values:
        return None, []
    # Sorting in plain Python costs less than importing numpy up to a hundred thousand requests, and what
    # a result says must not depend on how many there are.
    data = sorted(values)
    marks = [quantile(data, percent / 100) for percent in range(101)]
    statistics = {
        "count": len(data),
        "mean": math.fsum(data) / len(data),
        "p50": marks[50],
        "p90": marks[90],
        "p99": marks[99],
        "max": marks[100],
    }
    return statistics, marks


def quantile(data: Sequence[float], share: float) -> float:
    """Of ordered data, interpolated between the closest ranks (Hyndman and Fan's definition 7); monotone."""
    rank = share * (len(data) - 1)
    below = math.floor(rank)
    if below + 1 >= len(data):
        return data[-1]
    low, high = data[below], data[below + 1]
    return min(high, low + (high - low) * (rank - below))


def series_object(recorder: Recorder) -> dict[str, list[float]]:
    """The ``series`` object: one list a column."""
    columns = (
        "t_s", "used_blocks", "cached_blocks", "running", "waiting", "queried_tokens", "hit_tokens",
        "preemptions",
    )  # fmt: skip
    rows = list(zip(*recorder.series, strict=True)) or [()] * len(columns)
    return {name: list(values) for name, values in zip(columns, rows, strict=True)}


def throughput_object(recorder: Recorder) -> dict[str, float]:
    """Averages over the makespan."""
    totals = recorder.totals
    span = totals.makespan_s
    if span <= 0:
        return {"requests_per_s": 0.0, "prompt_tokens_per_s": 0.0, "output_tokens_per_s": 0.0}
    return {
        "requests_per_s": totals.finished / span,
        "prompt_tokens_per_s": totals.prompt_tokens / span,
        "output_tokens_per_s": totals.output_tokens / span,
    }


def slo_objects(
    slo: SloPart, latency: dict[str, Any], recorder: Recorder, client: ClientOverhead = NO_OVERHEAD
) -> list[dict[str, Any]]:
    """Each limit that was set, with the value reached; one without a value is missed.

    Requests on which clients gave up are part of the whole: they never had their first or last token.
    """
    found = []
    lost = recorder.totals.timed_out
    for name, limit in slo.limits.items():
        metric, share, _ = name.split("_")
        statistics = latency[f"{metric}_s"]
        value = None if statistics is None else statistics[share]
        if value is not None and lost and metric in ("ttft", "e2e"):
            values = at_client(getattr(recorder, f"{metric}_s"), recorder, client)
            value = quantile([*sorted(values), *[math.inf] * lost], int(share[1:]) / 100)
            value = value if math.isfinite(value) else None
        passed = value is not None and value <= limit
        found.append({"name": name, "limit_s": limit, "value_s": value, "passed": passed})
    return found
