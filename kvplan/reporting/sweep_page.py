"""A sweep as one self-contained page: what it found, every point, and how the figures move."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from kvplan.reporting import tables
from kvplan.reporting.csv import table_csv
from kvplan.reporting.highest import REQUESTS, answer_figures, highest_remarks, highest_sentence, range_note
from kvplan.reporting.schema.sweep import Highest, Sweep
from kvplan.reporting.sweep import MISSED, csv_columns, csv_rows, point_table, remarks
from kvplan.reporting.sweep_figures import (
    Show,
    done_points,
    everywhere,
    is_numeric,
    limit_of,
    sweep_figures,
    values_text,
)
from kvplan.reporting.tables import Table
from kvplan.reporting.verdict import Tone, Verdict
from kvplan.reporting.wording import (
    decimal,
    label,
    percent,
    plain,
    plural,
    seconds,
    sentence_list,
)

LONG_TABLE = 24
"""Rows from which the charts come before the table."""

MAX_LISTED = 100


def render_sweep(sweep: Sweep) -> str:
    """The page of a sweep.

    Raises:
        EnvironmentLacks: the installed plotly came without plotly.js.
    """
    from kvplan.reporting.html import page

    embedded = json.dumps(sweep.document(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    charts = {figure.key: figure for figure in sweep_figures(sweep)}
    return page("listing.html.j2", charts, _content(sweep), embedded=embedded, csv=sweep_csv(sweep))


def sweep_csv(sweep: Sweep) -> str:
    """One row a point, raw numbers in base units."""
    return table_csv(csv_columns(sweep.document()), csv_rows(sweep.document()))


def _content(sweep: Sweep) -> dict[str, Any]:
    document = sweep.document()
    # The table has a column for objectives, and the headline the answer of a search.
    said = [] if sweep.highest is None else highest_remarks(document)
    said += remarks({**document, "highest": None})
    notes = [note for note in said if not note.endswith(MISSED)]
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


def subject(sweep: Sweep) -> str:
    """``llama-3.1-8b on h100-sxm``, as far as it is the same at every point."""
    scenario = sweep.scenario or {}
    varied = {axis.key for axis in sweep.axes}
    model, gpu = (scenario.get(key) if key not in varied else None for key in ("model", "gpu"))
    name = (
        plain(model, 80)
        if isinstance(model, str)
        else "Several models"
        if "model" in varied
        else "The engine"
    )
    return f"{name} on {plain(gpu, 60)}" if isinstance(gpu, str) else name


def sweep_verdict(sweep: Sweep) -> Verdict:
    """What the sweep says, in plain words."""
    done, number = done_points(sweep), len(sweep.points)
    judged = [(point, figures) for point, figures in done if figures.slo_met is not None]
    met = [point for point, figures in judged if figures.slo_met and figures.served]
    tone: Tone = "neutral"
    if sweep.highest is not None:
        headline = f"{subject(sweep)}: {highest_sentence(sweep.document())}."
        tone = _tone(sweep.highest)
    elif not done:
        headline, tone = f"None of the {plural(number, 'point')} could be simulated.", "missed"
    elif judged:
        who = "All" if len(met) == number else str(len(met) or "None")
        headline = f"{who} of the {plural(number, 'point')} of {subject(sweep)} meet every objective."
        if number == 1:
            headline = f"The one point of {subject(sweep)} {'meets' if met else 'misses'} its objectives."
        tone = "met" if len(met) == number else "partial" if met else "missed"
    else:
        spread = _spread([figures.ttft_p99_s for _, figures in done])
        headline = f"{subject(sweep)} at {plural(number, 'point')}" + (
            f": TTFT p99 {spread}." if spread else "."
        )
    axes = [f"{plain(a.key, 80)} ({values_text(a.values)})" for a in sweep.axes]
    detail = [f"Varied: {sentence_list(axes)}." if sweep.highest is None else _searched(sweep, sweep.highest)]
    if sweep.highest is None and judged and 0 < len(met) <= 12 and len(met) < number:
        said = "point" if len(met) == 1 else "points"
        detail.append(f"Every objective is met by {said} {sentence_list([str(p.point) for p in met])}.")
    if judged and (limits := _objectives(sweep)):
        said = "The objectives are" if len(limits) > 1 else "The objective is"
        detail.append(f"{said} {sentence_list(limits)}.")
    if sweep.highest is not None and sweep.highest.passed is not None:
        detail.append("The figures below are those at the answer.")
    elif judged and met:
        detail.append("The figures below are the best among points that meet them.")
    missing = number - len(done)
    if missing:
        detail.append(f"{plural(missing, 'point')} {'has' if missing == 1 else 'have'} no figures.")
    if not sweep.complete:
        detail.append("The sweep was stopped early.")
    return Verdict(headline, tuple(detail), (), tone)


def _searched(sweep: Sweep, found: Highest) -> str:
    """Where the answer was looked for, in how many runs and of how many requests."""
    tried = [value for axis in sweep.axes if axis.key == found.key for value in axis.values]
    lengths = [value for axis in sweep.axes if axis.key == REQUESTS != found.key for value in axis.values]
    said = f"Searched: {plain(found.key, 80)} in {plural(len(sweep.points), 'run')}"
    if is_numeric(tried):
        said += f", from {min(tried):g} to {max(tried):g}"
    if is_numeric(lengths):
        said += f"; the runs have {min(lengths):,} to {max(lengths):,} requests"
    return f"{said}."


def _objectives(sweep: Sweep) -> list[str]:
    """What every point was judged by, where it is the same for all."""
    slo = (sweep.scenario or {}).get("slo")
    limits = {key: limit_of(sweep, key) for key in (slo if isinstance(slo, dict) else ())}
    return [f"{label(key)} within {seconds(limit)}" for key, limit in limits.items() if limit is not None]


def _tone(found: Highest) -> Tone:
    """Met without reserve only where nothing that was looked at fails, even with the clock at its slowest."""
    if found.passed is None:
        return "missed"
    if found.settled is False:
        return "partial"
    if found.range is None:
        return "met"
    return "met" if found.missed is None and found.range.low == found.passed else "neutral"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = seconds(min(known)), seconds(max(known))
    return low if low == high else f"from {low} to {high}"


def key_figures(sweep: Sweep) -> list[tuple[str, str, str]]:
    """The best of each figure and which point it is; of a search, what is the case at its answer.

    Only points that serve every request count and, where some do, only those that meet every objective.
    """
    if sweep.highest is not None and sweep.highest.passed is not None:
        return _figures_at_the_answer(sweep.document())
    served = [(point, figures) for point, figures in done_points(sweep) if figures.served]
    meeting = [(point, figures) for point, figures in served if figures.slo_met]
    found = []
    for name, key, show, best in _BEST:
        known = [(getattr(f, key), p) for p, f in meeting or served if getattr(f, key) is not None]
        if known:
            value, point = best(known, key=lambda pair: pair[0])
            where = f"point {point.point}: {values_text(list(point.values.values()))}"
            alike = len(known) > 1 and all(other == value for other, _ in known)
            where = everywhere(sweep, len(known)) if alike and not meeting else where
            found.append((name, show(value), where))
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
    ("Lowest cost per million output tokens", "cost_per_million_output_tokens", decimal, min),
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
