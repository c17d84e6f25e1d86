"""What a run's GPUs cost, in words and rows."""

from __future__ import annotations

from kvplan.reporting.schema.cost import Cost
from kvplan.reporting.wording import decimal, plural


def money(amount: float | None, currency: str) -> str:
    """``(1.3456, 'USD')`` -> ``'1.35 USD'``; ``None`` -> an en dash."""
    return "–" if amount is None else f"{amount_text(amount)} {currency}"


def amount_text(amount: float) -> str:
    """``1.3456`` -> ``'1.35'``; below 1 two decimals and three digits at least: ``'0.50'``, ``'0.0421'``.

    Amounts that no invoice has are short all the same: ``'12,000,000'``, ``'1.20e-09'``.
    """
    if amount >= 1e12 or 0 < amount < 1e-4:
        return f"{amount:.2e}"
    if amount == 0:
        return "0"
    if amount >= 1:
        return f"{amount:,.{0 if amount >= 1e6 else 2}f}"
    exact = decimal(amount)
    return exact if len(exact) > len("0.00") else f"{amount:.2f}"


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
