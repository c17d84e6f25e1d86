"""In which order a plan has its candidates."""

from __future__ import annotations


def rank(
    gpus: int, cost_per_hour: float | None, first_token_s: float | None, number: int
) -> tuple[float, ...]:
    """Cheapest first; then the fewest GPUs, the earliest first token, the order in which they came."""
    return (gpus if cost_per_hour is None else cost_per_hour, gpus, first_token_s or 0.0, number)
