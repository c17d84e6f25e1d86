"""Figures of the ways to manage memory a run was asked for: one table a section, in units people read."""

from __future__ import annotations

from kvplan.reporting.result import Result
from kvplan.reporting.schema.outcome import Metric
from kvplan.reporting.tables import MAX_ROWS, Table
from kvplan.reporting.wording import count, decimal, percent, plain, seconds
from kvplan.units import format_bytes

_ACRONYMS = frozenset(("ttft", "tpot", "kv", "gpu", "cpu", "pcie", "dp", "io"))

MAX_SECTIONS = 20
"""Most sections shown; the result itself has them all."""


def strategies_tables(result: Result) -> list[Table]:
    """A table a section: name, value and meaning of every figure. Empty where nothing was asked for."""
    found = []
    for name, metrics in list(result.strategies.items())[:MAX_SECTIONS]:
        rows = tuple((title(m.name), figure(m), plain(m.meaning)) for m in metrics[:MAX_ROWS])
        left_off = max(0, len(metrics) - MAX_ROWS)
        found.append(
            Table(title(name), ("Figure", "Value", "Meaning"), rows, numeric=(1,), left_off=left_off)
        )
    return found


def title(name: str) -> str:
    """``'kv_bytes_moved'`` -> ``'KV bytes moved'``."""
    words = plain(name, 80).replace("_", " ").split()
    text = " ".join(word.upper() if word in _ACRONYMS else word for word in words)
    return text[:1].upper() + text[1:]


def figure(metric: Metric) -> str:
    """A value with its unit: ``1.50 GiB``, ``12.3 ms``, ``4,096 tokens``, ``38.2%``; an en dash for none."""
    value, unit = metric.value, plain(metric.unit, 40)
    if value is None:
        return "–"
    if isinstance(value, str):
        return plain(value, 80)
    if unit in ("bytes", "B"):
        return format_bytes(value)
    if unit in ("bytes/s", "B/s"):
        return f"{format_bytes(value)}/s"
    if unit == "s":
        return seconds(float(value))
    number = count(value) if isinstance(value, int) else decimal(value)
    if unit in ("1", "ratio", ""):
        return percent(value) if isinstance(value, float) and 0.0 <= value <= 1.0 else number
    return f"{number} {unit}"
