"""What a run's GPUs cost, in words and rows."""

from __future__ import annotations

from kvplan.reporting.schema.cost import Cost
from kvplan.reporting.wording import decimal, plural


def money(amount: float | None, currency: str) -> str:
    """``(1.3456, 'USD')`` -> ``'1.35 USD'``; below 1 with three digits; ``None`` -> an en dash."""
    if amount is None:
        return "–"
    return f"{amount:,.2f} {currency}" if amount >= 1 else f"{decimal(amount)} {currency}"


def cost_text(cost: Cost) -> str:
    """``1 GPU for 2.5 USD an hour; 1.3 USD a million output tokens, 0.14 USD a million of all``."""
    rent = f"{plural(cost.gpus, 'GPU')} for {money(cost.per_hour, cost.currency)} an hour"
    if cost.per_million_output_tokens is None:
        return f"{rent}; no request finished"
    answered = money(cost.per_million_output_tokens, cost.currency)
    whole = money(cost.per_million_tokens, cost.currency)
    return f"{rent}; {answered} a million output tokens, {whole} a million of all tokens"


def cost_rows(cost: Cost | None) -> list[tuple[str, str, str]]:
    """Name, value and note of each figure; none without a price."""
    if cost is None:
        return []
    rent = f"{money(cost.per_hour, cost.currency)} an hour for {plural(cost.gpus, 'GPU')}"
    return [
        ("Cost", money(cost.total, cost.currency), f"{rent}, over the makespan"),
        (
            "Cost per million output tokens",
            money(cost.per_million_output_tokens, cost.currency),
            "at this load",
        ),
        ("Cost per million tokens", money(cost.per_million_tokens, cost.currency), "of prompts and answers"),
    ]
