"""The handful of figures by which runs are compared, from a result document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvplan.scenario.deployment import Deployment

FIGURES = (
    "finished", "rejected", "unfinished", "hit_ratio", "ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s",
    "output_tokens_per_s", "preemptions", "evicted_blocks", "moved_bytes", "peak_used_blocks",
    "peak_used_bytes", "makespan_s", "slo_met",
)  # fmt: skip
"""Names of the figures, in the order of every table."""


def figures(document: Mapping[str, Any], block_bytes: int | None) -> dict[str, Any]:
    """The figures of a ``kvplan.result/1`` document.

    ``None`` where there is none: no look-ups, no request with that latency, no objectives, a pool whose
    blocks have no known size.

    Args:
        block_bytes: what a block takes on all GPUs of a replica together.
    """
    totals, latency = document["totals"], document["latency"]
    queried, peak = totals["queried_tokens"], totals["peak_used_blocks"]
    found = {
        **{name: totals[name] for name in ("finished", "rejected", "unfinished")},
        "hit_ratio": totals["hit_tokens"] / queried if queried else None,
    }
    for name in ("ttft", "tpot"):
        statistics = latency[f"{name}_s"]
        for key in ("p50", "p99"):
            found[f"{name}_{key}_s"] = None if statistics is None else statistics[key]
    found |= {
        "output_tokens_per_s": document["throughput"]["output_tokens_per_s"],
        "preemptions": totals["preemptions"],
        "evicted_blocks": totals["evicted_blocks"],
        "moved_bytes": moved_bytes(document["strategies"]),
        "peak_used_blocks": peak,
        "peak_used_bytes": None if block_bytes is None else peak * block_bytes,
        "makespan_s": totals["makespan_s"],
        "slo_met": all(slo["passed"] for slo in document["slo"]) if document["slo"] else None,
    }
    return found


def moved_bytes(strategies: Mapping[str, list[Mapping[str, Any]]]) -> int:
    """Bytes that links carried: every figure of a strategy that is called so, added up."""
    return sum(
        metric["value"] or 0
        for metrics in strategies.values()
        for metric in metrics
        if metric["unit"] == "bytes" and metric["name"].startswith("moved_bytes")
    )


def block_bytes_of(deployment: Deployment) -> int | None:
    """Bytes of a block on all GPUs of a replica; None where only the number of blocks is given."""
    fit = deployment.fit
    return None if fit is None else fit.binding.capacity.block_bytes * fit.parallel.gpus
