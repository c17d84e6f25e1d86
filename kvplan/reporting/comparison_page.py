"""Two results as one self-contained page: what was asked differently, what came out differently."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, TypeAlias

from kvplan.reporting import tables
from kvplan.reporting.comparison import SCHEMA, Comparison
from kvplan.reporting.comparison_text import (
    answers,
    asked_first,
    comparison_csv,
    comparison_tables,
    judged_text,
    row_of,
)
from kvplan.reporting.figure import Axis, Figure, Line
from kvplan.reporting.figures import CLOCKS, figures
from kvplan.reporting.html import page
from kvplan.reporting.result import Result
from kvplan.reporting.verdict import subject
from kvplan.reporting.wording import plain

Named: TypeAlias = tuple[str, Result]
"""A result and what it is called, such as its file."""

LINES = {"occupancy": (0,), "requests": (0, 1), "hit_ratio": (1,), "ttft": (0,), "tpot": (0,), "e2e": (0,)}
"""Lines of a report's charts that are drawn for both results, by chart."""


def render_comparison(found: Comparison, a: Named, b: Named) -> str:
    """The page of two results.

    Raises:
        EnvironmentLacks: the installed plotly came without plotly.js.
    """
    document = found.to_dict(a[0], b[0])
    embedded = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return page(
        "comparison.html.j2", overlays(a[1], b[1]), _content(found, a, b),
        embedded=embedded, csv=comparison_csv(found),
    )  # fmt: skip


def _content(found: Comparison, a: Named, b: Named) -> dict[str, Any]:
    shown = {table.caption: table for table in comparison_tables(found)}
    same = subject(a[1]) == subject(b[1])
    both = (("A", *a), ("B", *b))
    return {
        "kind": "comparison",
        "schema": SCHEMA,
        "whole": "diff.json",
        "title": f"{subject(a[1])}{'' if same else f' and {subject(b[1])}'}: two results · kvplan",
        "answers": answers(found, "What is asked first is the same in both."),
        "key_figures": _key_figures(found),
        "results": [(name, plain(file, 200), subject(result)) for name, file, result in both],
        "scenario": shown.get("Scenario"),
        "outcome": [shown[name] for name in ("Latency", "Totals", "Clients and strategies") if name in shown],
        "notes": [plain(note, 400) for note in found.notes],
        "commands": [(name, plain(result.provenance.command, 4000)) for name, _, result in both],
        "versions": [tables.versions_of(result.provenance) for _, _, result in both],
        "absent": {},
    }


def _key_figures(found: Comparison) -> list[tuple[str, str, str]]:
    """What people ask first: name, from A to B, by how much."""
    figures = []
    for words, change, item in asked_first(found):
        _, a, b, by = row_of(change)
        judged = f" ({judged_text(item)})" if item else ""
        figures.append((words[0].upper() + words[1:], _from_to(a, b), f"{by}{judged}"))
    return figures


def _from_to(a: str, b: str) -> str:
    """``189 → 250 tokens/s``: a unit that both have is said once."""
    first, _, unit = a.partition(" ")
    return f"{first if unit and unit == b.partition(' ')[2] else a} → {b}"


def overlays(a: Result, b: Result) -> dict[str, Figure]:
    """The charts that both results have, one over the other."""
    first, second = figures(a), figures(b)
    made = {}
    for key, places in LINES.items():
        if key in first and key in second:
            figure = _overlay(first[key], second[key], places)
            if figure is not None:
                made[key] = figure
    return made


def _overlay(a: Figure, b: Figure, places: tuple[int, ...]) -> Figure | None:
    across, up = _wider(a.x, b.x), _wider(a.y, b.y)
    if across is None or up is None or len(a.lines) <= max(places) or len(b.lines) <= max(places):
        return None
    lines = []
    for colour, (name, figure) in enumerate((("A", a), ("B", b)), 1):
        factor = _unit_s(figure.x) / _unit_s(across)
        for place in places:
            line = figure.lines[place]
            title = f"{name}, {line.name}" if len(places) > 1 else name
            x = [value * factor for value in line.x] if factor != 1.0 else line.x
            lines.append(Line(title, x, line.y, colour, dashed=place > min(places)))
    summary = f"A: {a.summary} B: {b.summary}"
    return Figure(a.key, a.title, summary, across, up, tuple(lines))


def _wider(a: Axis, b: Axis) -> Axis | None:
    """One axis for both, in the longer of two units of time; ``None`` where they have nothing in common."""
    if a.unit != b.unit or a.log != b.log:
        return None
    longer = a if _unit_s(a) >= _unit_s(b) else b
    ends = [end * _unit_s(axis) / _unit_s(longer) for axis in (a, b) for end in (axis.low, axis.high)]
    return replace(longer, low=min(ends), high=max(ends))


def _unit_s(axis: Axis) -> float:
    """Seconds of an axis over time, by the unit at the end of its title; 1 for others."""
    names = {name: factor for name, factor, _ in CLOCKS}
    return names[axis.title.rsplit(", ", 1)[-1]] if axis.unit == "time" else 1.0
