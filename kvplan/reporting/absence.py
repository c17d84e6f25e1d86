"""Why a report lacks a chart: said in its place, so that a gap is never taken for a zero."""

from __future__ import annotations

from kvplan.reporting.result import Result


def absent(result: Result) -> dict[str, str]:
    """Why a section has no chart, by chart; only for charts that are missing."""
    reasons = {}
    if result.memory is None:
        lacking = (
            "a model and a GPU" if result.model is None else "a GPU" if result.gpu is None else "the bill"
        )
        reasons["memory"] = (
            f"No memory bill: the scenario was run without {lacking}, on a pool of given size."
        )
    if not result.capacity:
        reasons["capacity"] = (
            "No capacity curve: it needs a model and a GPU, and the scenario does not name both."
        )
    if len(result.series.t_s) < 2:
        reasons["series"] = "No course over time: the run has fewer than two samples."
    elif not result.totals.queried_tokens:
        reasons["hit_ratio"] = "No hit ratio: no prompt was looked up in a prefix cache."
    elif not result.hits_known:
        reasons["hit_ratio"] = "No hit ratio: the trace does not say what prompts share."
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        if not getattr(result.distributions, name):
            short = name.removesuffix("_s").upper()
            reasons[name.removesuffix("_s")] = f"No {short} distribution: no request has one."
    return reasons
