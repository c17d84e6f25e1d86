"""What a serving run cannot say whatever the constants of its engine are, from the log alone."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.latency.profile import COMPUTE
from kvplan.scenario.log_features import quantile
from kvplan.scenario.measured import Measured

CACHED_SHARE = 0.3
COMPUTING = ("compute_efficiency", COMPUTE)
"""What only prompts that were computed can tell."""


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
            "fitted from TTFT is too optimistic"
        )
    quarter = max(len(rows) // 4, 1)
    early = quantile(sorted(row.ttft_s for row in rows[:quarter]), 0.5)
    late = quantile(sorted(row.ttft_s for row in rows[-quarter:]), 0.5)
    if late > 3 * early and late > 0.5:
        why = f"the run was saturated: the median TTFT rose from {early:.3g} s to {late:.3g} s"
        reasons["client_overhead_s"] = f"{why}, so TTFT is waiting"
        notes.append(f"{why}; capacity is fitted, latency below saturation is not")
    busy = sorted(flight)
    if quantile(busy, 0.9) < 1.5 * quantile(busy, 0.1):
        reasons["request_s"] = (
            f"the run held one batch size ({quantile(busy, 0.5):.3g} requests in flight), so what a step "
            "and what a request of it costs cannot be told apart"
        )
    return reasons, notes
