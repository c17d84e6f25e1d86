"""Laws that the numbers of one result must obey among themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One law: what it says, whether it holds, and the numbers where it does not."""

    name: str
    passed: bool
    detail: str = ""


def check_laws(document: Mapping[str, Any]) -> tuple[Check, ...]:
    """Every law that a ``kvplan.result/1`` document can be held to without running it again."""
    return (*_conservation(document), *_series(document), *_latencies(document), _throughput(document))


def check_totals(recorded: Mapping[str, Any], played: Mapping[str, Any]) -> Check:
    """Whether a run of all requests gives the totals that were recorded, floats bit for bit."""
    wrong = [
        f"{name}: recorded {recorded[name]!r}, played {value!r}"
        for name, value in played.items()
        if recorded[name] != value
    ]
    return Check("totals are those of a fresh run", not wrong, "; ".join(wrong))


def _conservation(document: Mapping[str, Any]) -> Iterator[Check]:
    totals, usable = document["totals"], document["pool"]["usable_blocks"]
    ended = totals["finished"] + totals["rejected"] + totals["timed_out"] + totals["unfinished"]
    yield _check(
        "every request finished, was rejected, timed out or is unfinished",
        ended == totals["requests"],
        f"{totals['requests']} requests, {ended} accounted for",
    )
    yield _check(
        "a complete run leaves no request unfinished",
        not (document["complete"] and totals["unfinished"]),
        f"{totals['unfinished']} unfinished",
    )
    yield _check(
        "hits are part of the tokens looked up",
        totals["hit_tokens"] <= totals["queried_tokens"],
        f"{totals['hit_tokens']} hit, {totals['queried_tokens']} queried",
    )
    yield _check(
        "no more blocks in use than the pool has",
        totals["peak_used_blocks"] <= usable,
        f"peak {totals['peak_used_blocks']}, usable {usable}",
    )
    yield _check(
        "no more blocks evicted than allocated",
        totals["evicted_blocks"] <= totals["allocated_blocks"],
        f"{totals['evicted_blocks']} evicted, {totals['allocated_blocks']} allocated",
    )
    yield _check(
        "the seed is the scenario's",
        document["provenance"]["seed"] == document["scenario"].get("seed", 0),
        f"{document['provenance']['seed']} and {document['scenario'].get('seed', 0)}",
    )


def _series(document: Mapping[str, Any]) -> Iterator[Check]:
    series, totals = document["series"], document["totals"]
    usable = document["pool"]["usable_blocks"]
    full = [
        t
        for t, used, cached in zip(series["t_s"], series["used_blocks"], series["cached_blocks"], strict=True)
        if used + cached > usable
    ]
    yield _check(
        "used and cached blocks never exceed the pool",
        not full,
        f"they do at {len(full)} points, first at {full[0] if full else 0} s",
    )
    rising = ("t_s", "queried_tokens", "hit_tokens", "preemptions")
    falling = [name for name in rising if any(a > b for a, b in pairwise(series[name]))]
    yield _check("time and counters never fall", not falling, f"falling: {', '.join(falling)}")
    beyond = [name for name in rising[1:] if series[name] and series[name][-1] > totals[name]]
    yield _check("counters end at or below their totals", not beyond, f"beyond: {', '.join(beyond)}")


def _latencies(document: Mapping[str, Any]) -> Iterator[Check]:
    latency, finished = document["latency"], document["totals"]["finished"]
    counts = {name: latency[name]["count"] if latency[name] else 0 for name in ("queue_s", "ttft_s", "e2e_s")}
    yield _check(
        "every finished request has its latencies",
        all(count == finished for count in counts.values()),
        f"{finished} finished, counted {counts}",
    )
    order = ("p50", "p90", "p99", "max")
    mixed = [
        name
        for name, values in latency.items()
        if values and any(values[a] > values[b] for a, b in pairwise(order))
    ]
    yield _check("quantiles rise", not mixed, f"not those of {', '.join(mixed)}")
    causal = [
        f"{quantile} of {earlier} after {later}"
        for earlier, later in pairwise(("queue_s", "ttft_s", "e2e_s"))
        if latency[earlier] and latency[later]
        for quantile in order
        if latency[earlier][quantile] > latency[later][quantile]
    ]
    yield _check("scheduled before first token before finish", not causal, "; ".join(causal))


def _throughput(document: Mapping[str, Any]) -> Check:
    totals, throughput = document["totals"], document["throughput"]
    span = totals["makespan_s"]
    parts = {
        "requests_per_s": "finished",
        "prompt_tokens_per_s": "prompt_tokens",
        "output_tokens_per_s": "output_tokens",
    }
    wrong = [
        name
        for name, counted in parts.items()
        if throughput[name] != (totals[counted] / span if span > 0 else 0.0)
    ]
    return _check("throughput is the totals over the makespan", not wrong, f"not {', '.join(wrong)}")


def _check(name: str, passed: bool, detail: str) -> Check:
    return Check(name, passed, "" if passed else detail)
