"""What two results differ in, in words and tables: for the terminal, Markdown, CSV and the page alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kvplan.reporting.comparison import Change, Comparison, LatencyChange
from kvplan.reporting.csv import table_csv
from kvplan.reporting.markdown import escape
from kvplan.reporting.schema.outcome import Metric
from kvplan.reporting.strategies import figure
from kvplan.reporting.tables import Table
from kvplan.reporting.wording import (
    LATENCIES,
    change_text,
    label,
    plain,
    sentence_list,
    setting_text,
    value_text,
)

WORDS = {
    "equal": "equal",
    "beyond": "beyond the error bands",
    "within": "within the error bands",
    "unknown": "no error bands",
}

COLUMNS = ("group", "name", "a", "b", "unit", "ratio", "judgement")
"""Of the CSV form."""

HEADLINE = {
    "ttft_p99": "TTFT p99",
    "tpot_p99": "TPOT p99",
    "output_tokens_per_s": "output tokens a second",
    "cost_per_million_output_tokens": "cost of output tokens",
    "hit_ratio": "prefix hits",
    "reused_ratio": "prefix hits with the tiers",
}


def asked_first(found: Comparison) -> Iterator[tuple[str, Change, LatencyChange | None]]:
    """What people ask first, as far as both results have it: its words, the change, and for a latency its
    judgement."""
    latencies = {item.change.name: item for item in found.latency}
    totals = {change.name: change for change in found.totals}
    for name, words in HEADLINE.items():
        if name in latencies:
            yield words, latencies[name].change, latencies[name]
        elif name in totals:
            yield words, totals[name], None


def answers(found: Comparison, unchanged: str = "") -> list[str]:
    """Sentences: who meets its objectives, where there are any; what B changes of what people ask first.

    Args:
        unchanged: what is said in place of the second where nothing of that changed.
    """
    said = []
    for words, change, item in asked_first(found):
        by = "" if item is not None and item.judgement == "equal" else _by(change)
        if by:
            said.append(f"{words} {by}" + (f" ({judged_text(item)})" if item else ""))
    changes = f"B against A: {', '.join(said)}." if said else unchanged
    judged = "" if found.missed == (None, None) else _judged(*found.missed)
    return [sentence for sentence in (judged, changes) if sentence]


def _judged(a: Sequence[str] | None, b: Sequence[str] | None) -> str:
    """``A meets every objective; B misses TTFT p99.``"""
    if a == b:
        return f"Both {_meeting(a, 'meet', 'miss')}."
    return (
        "; ".join(
            f"{name} {'has no objectives' if of is None else _meeting(of, 'meets', 'misses')}"
            for name, of in (("A", a), ("B", b))
        )
        + "."
    )


def _meeting(missed: Sequence[str] | None, meets: str, misses: str) -> str:
    names = [label(name) for name in missed or ()]
    return f"{misses} {sentence_list(names)}" if names else f"{meets} every objective"


def groups(found: Comparison) -> list[tuple[str, Sequence[Change]]]:
    """What differs except latencies, under its titles."""
    return [
        ("Scenario", found.scenario), ("Totals", found.totals), ("Clients and strategies", found.strategies),
    ]  # fmt: skip


def comparison_csv(found: Comparison) -> str:
    """One row a difference, raw numbers in base units."""
    return table_csv(COLUMNS, _rows(found))


def _rows(found: Comparison) -> Iterator[tuple[object, ...]]:
    for group, changes in groups(found):
        for change in changes:
            yield group.lower(), *_raw(change), ""
    for item in found.latency:
        yield "latency", *_raw(item.change), item.judgement


def _raw(change: Change) -> tuple[object, ...]:
    cells = (change.name, change.a, change.b, change.unit, change.ratio)
    return tuple(plain(cell) if isinstance(cell, str) else cell for cell in cells)


def comparison_tables(found: Comparison) -> list[Table]:
    """What differs, as text; latencies always."""
    shown = []
    for title, changes in groups(found):
        names = [
            _in_words(change.name) if changes is found.totals else plain(change.name, 60)
            for change in changes
        ]
        cells = tuple((name, *row_of(change)[1:]) for name, change in zip(names, changes, strict=True))
        if cells:
            shown.append(Table(title, (title, "A", "B", "Change"), cells, (1, 2, 3)))
    rows = []
    for item in found.latency:
        latency, statistic = item.change.name.split("_")
        name = f"{LATENCIES[f'{latency}_s'][0]} {statistic}"
        rows.append((name, *row_of(item.change)[1:], judged_text(item)))
    columns = ("Latency", "A", "B", "Change", "Difference")
    return [*shown, Table("Latency", columns, tuple(rows), (1, 2, 3))] if rows else shown


def _in_words(name: str) -> str:
    """``requests_per_s`` -> ``Requests a second``."""
    return label(name.replace("_per_s", "_a_second") if name.endswith("_per_s") else name)


def row_of(change: Change) -> tuple[str, str, str, str]:
    """Its name, A, B, and by how much, as text."""
    return plain(change.name, 60), _value(change.a, change.unit), _value(change.b, change.unit), _by(change)


def _by(change: Change) -> str:
    """By how much: in points for shares, as a percentage or a factor for numbers, nothing for settings."""
    ratio = change.ratio
    if ratio is None or ("." in change.name and not change.unit):
        return ""
    if change.unit == "1" and isinstance(change.a, float) and max(change.a, change.b) <= 1.0:
        return f"{100 * (change.b - change.a):+.1f} points".replace("-", "−")
    return change_text(ratio)


def _value(value: Any, unit: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, (list, dict)):
        return setting_text(value)
    if isinstance(value, (bool, str)) or unit == "":
        return value_text(value)
    return figure(Metric(name="", value=value, unit=unit, meaning=""))


def judged_text(item: LatencyChange) -> str:
    """Whether a latency differs by more than the clocks can be wrong, in words."""
    return WORDS[item.judgement]


def comparison_markdown(found: Comparison, a: str, b: str) -> str:
    """Results called ``a`` and ``b`` as Markdown."""
    parts = [f"A: {escape(a)}  \nB: {escape(b)}"]
    parts += map(escape, answers(found))
    for table in comparison_tables(found):
        rule = "|".join(" ---: " if n in table.numeric else " --- " for n in range(len(table.columns)))
        lines = [f"| {' | '.join(map(escape, cells))} |" for cells in (table.columns, *table.rows)]
        parts.append("\n".join([lines[0], f"|{rule}|", *lines[1:]]))
    if found.notes:
        parts.append("\n".join(f"- {escape(note)}" for note in found.notes))
    return "\n\n".join(parts)
