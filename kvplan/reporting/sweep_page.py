"""A sweep as one self-contained page: what it found, every point, and how the figures move."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kvplan.reporting import tables
from kvplan.reporting.highest import answer_figures, range_note
from kvplan.reporting.schema.sweep import Sweep
from kvplan.reporting.sweep import COST_KEY, MISSED, point_table, remarks, sweep_csv
from kvplan.reporting.sweep_figures import (
    Show,
    done_points,
    everywhere,
    is_numeric,
    sweep_figures,
    values_text,
)
from kvplan.reporting.sweep_verdict import subject, sweep_verdict
from kvplan.reporting.tables import Table
from kvplan.reporting.wording import decimal, label, percent, plain, plural, seconds

LONG_TABLE = 24
"""Rows from which the charts come before the table."""

MAX_LISTED = 100


def render_sweep(sweep: Sweep) -> str:
    """The page of a sweep.

    Raises:
        EnvironmentLacks: the installed plotly came without plotly.js.
    """
    from kvplan.reporting.html import page

    document = sweep.document()
    embedded = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    charts = {figure.key: figure for figure in sweep_figures(sweep)}
    return page("listing.html.j2", charts, _content(sweep), embedded=embedded, csv=sweep_csv(document))


def _content(sweep: Sweep) -> dict[str, Any]:
    document = sweep.document()
    # The table has a column for objectives, and every point a row.
    notes = [note for note in remarks(document, document["points"]) if not note.endswith(MISSED)]
    provenance = sweep.provenance
    return {
        "kind": "sweep",
        "schema": sweep.schema_,
        "whole": "sweep.json",
        "stem": "sweep",
        "steps": [],
        "heading": "Points",
        "same": "What is the same at every point",
        "title": f"{subject(sweep)}: {plural(len(sweep.points), 'point')} · kvplan",
        "verdict": sweep_verdict(sweep),
        "key_figures": key_figures(sweep),
        "remarks": notes[:MAX_LISTED],
        "remarks_left": max(0, len(notes) - MAX_LISTED),
        "points": _points_table(sweep),
        "assumptions": None,
        "scenario": tables.unvaried_table(sweep.scenario or {}, [axis.key for axis in sweep.axes]),
        "files": tables.files_of(provenance),
        "versions": tables.versions_of(provenance),
        "command": plain(provenance.command, 4000),
        "absent": {},
        "charts_first": len(sweep.points) > LONG_TABLE,
    }


def key_figures(sweep: Sweep) -> list[tuple[str, str, str]]:
    """The best of each figure and which point it is; of a search, what is the case at its answer.

    Only points that serve every request count and, where some do, only those that meet every objective.
    """
    if sweep.highest is not None and sweep.highest.passed is not None:
        return _figures_at_the_answer(sweep.document())
    served = [(point, figures) for point, figures in done_points(sweep) if figures.served]
    meeting = [(point, figures) for point, figures in served if figures.slo_met]
    price, found = (sweep.scenario or {}).get("price"), []
    currency = plain(str(price["currency"]), 20) if isinstance(price, dict) and "currency" in price else None
    for name, key, show, best in _BEST:
        known = [(getattr(f, key), p) for p, f in meeting or served if getattr(f, key) is not None]
        if known:
            value, point = best(known, key=lambda pair: pair[0])
            where = f"point {point.point}: {values_text(list(point.values.values()))}"
            alike = len(known) > 1 and all(other == value for other, _ in known)
            where = (
                everywhere(sweep, len(known)) if alike and len(meeting) in (0, len(sweep.points)) else where
            )
            unit = currency if key == COST_KEY and currency is not None else ""
            found.append((name, f"{show(value)} {unit}".rstrip(), where))
    return found


def _figures_at_the_answer(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = document["highest"]
    name = plain(found["key"], 80).rpartition(".")[2].replace("_", " ")
    tiles = [(f"Highest {name}", f"{found['passed']:g}", range_note(found))]
    figures = answer_figures(document) or {}
    for item in figures.get("objectives") or []:
        binds = ", binds" if item["name"] == found["binding"] else ""
        note = f"limit {seconds(item['limit_s'])}{binds}"
        tiles.append((label(item["name"]), seconds(item["value_s"]), note))
    for title, key, show in (
        ("Output tokens a second", "output_tokens_per_s", decimal),
        ("Hit ratio", "hit_ratio", percent),
    ):
        if figures.get(key) is not None:
            tiles.append((title, show(figures[key]), "at the answer"))
    return tiles


_BEST: tuple[tuple[str, str, Show, Callable[..., Any]], ...] = (
    ("Lowest TTFT p99", "ttft_p99_s", seconds, min),
    ("Lowest TPOT p99", "tpot_p99_s", seconds, min),
    ("Most output tokens a second", "output_tokens_per_s", decimal, max),
    ("Lowest cost of a million output tokens", COST_KEY, decimal, min),
    ("Highest hit ratio", "hit_ratio", percent, max),
)


def _points_table(sweep: Sweep) -> Table:
    """All figures of every point, with whether it meets the objectives where there are some."""
    whole = _without_empty(point_table(sweep.document()))
    rows = list(whole.rows)
    columns = whole.columns
    numbers = [place for place, axis in enumerate(sweep.axes, 1) if is_numeric(axis.values)]
    numeric = (0, *numbers, *whole.numeric[1:])
    if any(figures.slo_met is not None for _, figures in done_points(sweep)):
        signs = {True: "✓ met", False: "✗ missed", None: "–"}
        met = [signs[point.figures.slo_met if point.figures else None] for point in sweep.points]
        rows = [(row[0], sign, *row[1:]) for row, sign in zip(rows, met, strict=True)]
        columns = (columns[0], "Objectives", *columns[1:])
        numeric = (0, *(place + 1 for place in numeric[1:]))
    shown = tuple(rows[: tables.MAX_ROWS])
    return Table("One simulation a row", columns, shown, numeric, left_off=len(rows) - len(shown))


_MAY_LACK = ("Preempted", "Evicted", "Moved")
_NOTHING = frozenset(("0", "0 B", "0 blocks", "–"))


def _without_empty(table: Table) -> Table:
    """The table without columns of things that happen at no point: a page is only so wide."""
    kept = [
        place
        for place, name in enumerate(table.columns)
        if name not in _MAY_LACK or any(row[place] not in _NOTHING for row in table.rows)
    ]
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    numeric = tuple(new for new, place in enumerate(kept) if place in table.numeric)
    return Table(table.caption, tuple(table.columns[place] for place in kept), rows, numeric)
