"""What a serving run cannot say whatever the constants of its engine are, from the log alone."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.latency.profile import COMPUTE
from kvplan.scenario.log_features import quantile
from kvplan.scenario.measured import Measured

CACHED_SHARE = 0.3
COMPUTING = ("compute_efficiency", COMPUTE)
"""What only prompts that were computed can tell."""
BATCH = "request_s"
"""What only batches of several sizes can tell."""


LimitedRun = tuple[Sequence[Measured], Sequence[float]]
"""A run's requests by arrival, and how many were in flight with each (``in_flight``)."""


def limits_of_all(runs: Sequence[LimitedRun], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What no run of several can say, and notes on all of them.

    Two runs that each held one batch size, but not the same, tell steps from requests.
    """
    found = [limits_of(rows, flight, names) for rows, flight in runs]
    reasons = {name: why for name, why in found[0][0].items() if all(name in reasons for reasons, _ in found)}
    if BATCH in reasons and _batches([size for _, flight in runs for size in flight]) is None:
        del reasons[BATCH]
    return reasons, [note for _, notes in found for note in notes]


def saturated(rows: Sequence[Measured]) -> str | None:
    """Why a run's TTFT is waiting; None where it is not.

    Args:
        rows: by arrival.
    """
    quarter = max(len(rows) // 4, 1)
    early = quantile(sorted(row.ttft_s for row in rows[:quarter]), 0.5)
    late = quantile(sorted(row.ttft_s for row in rows[-quarter:]), 0.5)
    if late > 3 * early and late > 0.5:
        return f"the run was saturated: the median TTFT rose from {early:.3g} s to {late:.3g} s"
    return None


def _batches(flight: Sequence[float]) -> str | None:
    """Why steps and requests look alike; None where they do not."""
    busy = sorted(flight)
    if quantile(busy, 0.9) >= 1.5 * quantile(busy, 0.1):
        return None
    return (
        f"the run held one batch size ({quantile(busy, 0.5):.3g} requests in flight), so what a step "
        "and what a request of it costs cannot be told apart"
    )


def limits_of(
    rows: Sequence[Measured], flight: Sequence[float], names: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """What a run cannot say whatever the constants are: (constant to reason, notes).

    Args:
        rows: by arrival.
        flight: ``in_flight(rows)``.
        names: constants that could be fitted.
    """
    reasons: dict[str, str] = {}
    notes: list[str] = []
    known = [row for row in rows if row.cached_tokens is not None]
    cached = sum(row.cached_tokens or 0 for row in known) / max(sum(row.prompt_tokens for row in known), 1)
    if cached > CACHED_SHARE:
        why = f"{cached:.0%} of the prompt tokens came from the prefix cache and were not computed"
        reasons |= {name: why for name in COMPUTING if name in names}
    if not known:
        notes.append(
            "the log does not say which prompt tokens were cached; if prompts shared prefixes, what was "
            "fitted from TTFT is too optimistic (servers tell with vLLM's --enable-prompt-tokens-details and "
            "SGLang's --enable-cache-report, and a column cached_tokens is read)"
        )
    full = saturated(rows)
    if full is not None:
        reasons["client_overhead_s"] = f"{full}, so TTFT is waiting"
        notes.append(f"{full}; capacity is fitted, latency below saturation is not")
    one = _batches(flight)
    if one is not None:
        reasons[BATCH] = one
    return reasons, notes
