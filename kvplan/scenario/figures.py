"""The handful of figures by which runs are compared, from a result document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario
from kvplan.scenario.settling import Stays

FIGURES = (
    "finished", "rejected", "timed_out", "unfinished", "hit_ratio", "ttft_p50_s", "ttft_p99_s", "tpot_p50_s",
    "tpot_p99_s", "output_tokens_per_s", "preemptions", "evicted_blocks", "evicted_bytes", "moved_bytes",
    "peak_used_blocks", "peak_used_bytes", "makespan_s", "slo_met", "arrivals_s", "e2e_p99_s", "growth",
    "cost_per_hour", "cost_per_million_output_tokens",
)  # fmt: skip
"""Names of the figures, in the order of every table."""


UNSERVED = ("rejected", "timed_out", "unfinished")
"""Those that count requests without an answer."""

COSTS = ("per_hour", "per_million_output_tokens")
"""What of a result's cost is compared; None without a price."""


def figures(
    document: Mapping[str, Any], block_bytes: int | None, stays: Stays | None = None
) -> dict[str, Any]:
    """The figures of a ``kvplan.result/1`` document.

    ``None`` where there is none: no look-ups, no request with that latency, no objectives, a pool whose
    blocks have no known size. ``objectives`` are no figure of tables: each with its value and the interval
    around it.

    Args:
        block_bytes: what a block takes on all GPUs of a replica together.
        stays: of its requests, where the run was watched.
    """
    totals, latency, cost = document["totals"], document["latency"], document["cost"]
    peak, evicted = totals["peak_used_blocks"], totals["evicted_blocks"]
    found = {
        **{name: totals[name] for name in ("finished", "rejected", "timed_out", "unfinished")},
        "hit_ratio": hit_ratio(document),
    }
    for name in ("ttft", "tpot"):
        statistics = latency[f"{name}_s"]
        for key in ("p50", "p99"):
            found[f"{name}_{key}_s"] = None if statistics is None else statistics[key]
    found |= {
        "output_tokens_per_s": document["throughput"]["output_tokens_per_s"],
        "preemptions": totals["preemptions"],
        "evicted_blocks": evicted,
        "evicted_bytes": None if block_bytes is None else evicted * block_bytes,
        "moved_bytes": moved_bytes(document["strategies"]),
        "peak_used_blocks": peak,
        "peak_used_bytes": None if block_bytes is None else peak * block_bytes,
        "makespan_s": totals["makespan_s"],
        "slo_met": all(slo["passed"] for slo in document["slo"]) if document["slo"] else None,
        "arrivals_s": None if stays is None else stays.arrivals_s,
        "e2e_p99_s": None if latency["e2e_s"] is None else latency["e2e_s"]["p99"],
        "growth": None if stays is None else stays.growth,
        **{f"cost_{name}": None if cost is None else cost[name] for name in COSTS},
        "objectives": [_objective(slo, document) for slo in document["slo"]],
    }
    return found


def _objective(slo: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """A result's objective with the interval around its value and the clock's band; None for none."""
    accuracy = document["accuracy"]
    intervals, bands = accuracy["intervals"], accuracy["bands"]
    metric, quantile, _ = slo["name"].split("_")
    around = None if intervals is None or slo["value_s"] is None else intervals[f"{metric}_s"]
    return {
        **slo,
        "interval_s": None if around is None else around[quantile],
        "band": None if bands is None else bands[metric],
    }


MOVED = frozenset(
    ("moved_bytes", "copied_bytes", "beam_copied_bytes", "to_host_bytes", "from_host_bytes", "to_disk_bytes",
     "from_disk_bytes")
)  # fmt: skip
"""What strategies call bytes that went over a link, or were copied within the device."""

REUSED = "cached_tokens"
"""What strategies call the tokens found where hits come from elsewhere too; a replica has its own."""


def moved_bytes(strategies: Mapping[str, list[Mapping[str, Any]]]) -> int:
    """Bytes that were moved or copied, added up over all strategies."""
    return sum(metric["value"] or 0 for metric in _metrics(strategies) if metric["name"] in MOVED)


def hit_ratio(document: Mapping[str, Any]) -> float | None:
    """Share of the tokens looked up that were not computed: found on the device, or in a tier below it.

    None where none were looked up, or where none were found in a trace that does not say what prompts share.
    """
    totals = document["totals"]
    reused = [metric["value"] for metric in _metrics(document["strategies"]) if metric["name"] == REUSED]
    found = sum(reused) if reused else totals["hit_tokens"]
    if not totals["queried_tokens"] or not (found or document["trace"]["reuse_known"]):
        return None
    return float(found / totals["queried_tokens"])


def _metrics(strategies: Mapping[str, list[Mapping[str, Any]]]) -> Iterator[Mapping[str, Any]]:
    for metrics in strategies.values():
        yield from metrics


def block_bytes_of(scenario: Scenario, deployment: Deployment) -> int | None:
    """Bytes of a block on all GPUs that have a part of it; None where only the number of blocks is given."""
    fit = deployment.fit
    if fit is None:
        return None
    # A rank of data-parallel attention has blocks of its own; otherwise a block is spread over the replica.
    ranks = scenario.parallel.ranks
    return fit.binding.capacity.block_bytes * (fit.parallel.gpus // ranks)
