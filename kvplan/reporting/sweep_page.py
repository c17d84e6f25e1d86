"""A sweep as one self-contained page: what it found, every point, and how the figures move."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from kvplan.reporting import tables
from kvplan.reporting.csv import table_csv
from kvplan.reporting.figure import COLOURS, SYMBOLS, Axis, Figure, Line, Rule, Unit
from kvplan.reporting.highest import answer_figures, highest_remarks, highest_sentence, range_note
from kvplan.reporting.schema.sweep import Figures, Highest, Point, Sweep
from kvplan.reporting.svg import label_room
from kvplan.reporting.sweep import MISSED, csv_columns, csv_rows, point_table, remarks
from kvplan.reporting.tables import Table
from kvplan.reporting.verdict import Tone, Verdict
from kvplan.reporting.wording import (
    MAX_TEXT,
    decimal,
    label,
    percent,
    plain,
    plural,
    seconds,
    sentence_list,
    setting_text,
    significant,
)

MAX_LINES = 8
"""Most lines of a chart; with more of them a chart is of points."""

MAX_SYMBOLS = 20
"""Most points of a line that are marked."""

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


def _done(sweep: Sweep) -> list[tuple[Point, Figures]]:
    return [(point, point.figures) for point in sweep.points if point.figures is not None]


def sweep_verdict(sweep: Sweep) -> Verdict:
    """What the sweep says, in plain words."""
    done, number = _done(sweep), len(sweep.points)
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
    axes = [f"{plain(a.key, 80)} ({_values(a.values)})" for a in sweep.axes]
    detail = [f"Varied: {sentence_list(axes)}."]
    if sweep.highest is None and judged and 0 < len(met) <= 12 and len(met) < number:
        said = "point" if len(met) == 1 else "points"
        detail.append(f"Every objective is met by {said} {sentence_list([str(p.point) for p in met])}.")
    if sweep.highest is None and judged and (limits := _objectives(sweep)):
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


def _objectives(sweep: Sweep) -> list[str]:
    """What every point was judged by, where it is the same for all."""
    slo = (sweep.scenario or {}).get("slo")
    limits = {key: _limit(sweep, key) for key in (slo if isinstance(slo, dict) else ())}
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


def _values(values: Sequence[Any]) -> str:
    shown = [setting_text(value) for value in values[:8]]
    return ", ".join(shown) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


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
    served = [(point, figures) for point, figures in _done(sweep) if figures.served]
    meeting = [(point, figures) for point, figures in served if figures.slo_met]
    found = []
    for name, key, show, best in _BEST:
        known = [(getattr(f, key), p) for p, f in meeting or served if getattr(f, key) is not None]
        if known:
            value, point = best(known, key=lambda pair: pair[0])
            where = f"point {point.point}: {_values(list(point.values.values()))}"
            alike = len(known) > 1 and all(other == value for other, _ in known)
            where = _everywhere(sweep, len(known)) if alike and not meeting else where
            found.append((name, show(value), where))
    return found


def _everywhere(sweep: Sweep, known: int) -> str:
    """Where something is the same."""
    return "at every point" if known == len(sweep.points) else f"at all {known} points that have it"


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


Show = Callable[[float], str]

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
    numbers = [place for place, axis in enumerate(sweep.axes, 1) if _numeric(axis.values)]
    numeric = (0, *numbers, *whole.numeric[1:])
    if any(figures.slo_met is not None for _, figures in _done(sweep)):
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


_Found = tuple[float, Point, Figures]
"""Where a point is on the axis, which one it is, and what came out."""


def sweep_figures(sweep: Sweep) -> list[Figure]:
    """A chart a figure: against the last axis that is a number, else point by point."""
    across = next((axis.key for axis in reversed(sweep.axes) if _numeric(axis.values)), None)
    others = [axis.key for axis in sweep.axes if axis.key != across]
    groups: dict[str, list[_Found]] = {}
    if across is not None:
        for point, figures in _done(sweep):
            name = ", ".join(setting_text(point.values[key], MAX_TEXT) for key in others)
            groups.setdefault(name, []).append((float(point.values[across]), point, figures))
        groups = dict(zip(_names(list(groups)), groups.values(), strict=True))
    if not 0 < len(groups) <= MAX_LINES:
        across, groups = None, {"": [(float(point.point), point, figures) for point, figures in _done(sweep)]}
    names = () if across is not None else _point_names(sweep)
    made = (_chart(sweep, key, name, unit, across, groups, names) for key, name, unit in _CHARTS)
    return [figure for figure in made if figure is not None]


MAX_NAME = 40
"""Characters of a line's name in a legend."""


LEAST_NAME = 8
"""Characters of a name below which points are numbered instead, as the rows of the table are."""


def _names(groups: Sequence[str], most: int = MAX_NAME) -> list[str]:
    """What lines are called: their values, cut in the middle, and numbered where they are then alike."""
    ends = most // 2
    cut = [name if len(name) <= most else f"{name[: ends - 1]}…{name[-ends:]}" for name in groups]
    if len(set(cut)) == len(cut):
        return cut
    return [f"{number}: {name[: most - 4]}" for number, name in enumerate(cut, 1)]


def _point_names(sweep: Sweep) -> tuple[str, ...]:
    """What every point has, as short as there is room for on an axis; nothing where that is too short."""
    whole = [_values(list(point.values.values())) for point in sweep.points]
    most = label_room(len(whole))
    return tuple(_names(whole, most)) if most >= min(LEAST_NAME, max(map(len, whole))) else ()


_CHARTS: tuple[tuple[str, str, Unit], ...] = (
    ("ttft_p99_s", "TTFT p99", "seconds"),
    ("tpot_p99_s", "TPOT p99", "seconds"),
    ("output_tokens_per_s", "Output tokens per second", "count"),
    ("cost_per_million_output_tokens", "Cost per million output tokens", "count"),
    ("hit_ratio", "Prefix hit ratio", "percent"),
)


def _numeric(values: Sequence[Any]) -> bool:
    return len(values) > 1 and all(type(value) in (int, float) and abs(value) < 1e15 for value in values)


def _chart(
    sweep: Sweep,
    key: str,
    name: str,
    unit: Unit,
    across: str | None,
    groups: dict[str, list[_Found]],
    names: tuple[str, ...],
) -> Figure | None:
    lines: list[Line] = []
    seen: list[tuple[float, float, Point]] = []
    for index, (group, found) in enumerate(groups.items()):
        known = sorted((x, getattr(f, key)) for x, _, f in found if getattr(f, key) is not None)
        seen += [(x, getattr(f, key), point) for x, point, f in found if getattr(f, key) is not None]
        if known:
            crowded = across is not None and len(known) > MAX_SYMBOLS
            symbol = None if crowded else SYMBOLS[index % len(SYMBOLS)]
            y: list[float | None] = [significant(value) for _, value in known]
            lines.append(
                Line(
                    group,
                    [x for x, _ in known],
                    y,
                    index % COLOURS + 1,
                    symbol,
                    joined=across is not None,
                    dashed=index >= COLOURS,
                )
            )
    if len(seen) < 2:
        return None
    xs, ys = [x for x, _, _ in seen], [y for _, y, _ in seen]
    show: Show = {"seconds": seconds, "percent": percent}.get(unit, decimal)  # type: ignore[assignment]
    low, high = min(seen, key=lambda pair: pair[1]), max(seen, key=lambda pair: pair[1])
    where = "point" if across is None else plain(across, 80)
    alone = len(groups) == 1 and across is not None
    ends = (f"{show(y)} at {_place(where, x, point, alone=alone)}" for x, y, point in (low, high))
    summary = (
        f"From {' to '.join(ends)}."
        if low[1] != high[1]
        else f"{show(low[1])} {_everywhere(sweep, len(seen))}."
    )
    limit = _limit(sweep, key)
    reach = [*ys, *([limit] if limit is not None else [])]
    steep = unit == "seconds" and min(reach) > 0 and max(reach) > 8 * min(reach)
    bottom, top = (min(reach) / 1.3, max(reach) * 1.3) if steep else (0, max(reach) * 1.05)
    up = Axis(
        f"{name}, log scale" if steep else name,
        unit,
        bottom,
        min(top, 1.0) if unit == "percent" else top,
        log=steep,
    )
    rules = () if limit is None else (Rule("y", limit, f"limit {seconds(limit)}"),)
    if across is None:
        title = ", ".join(plain(axis.key, 80) for axis in sweep.axes) if names else "point of the table"
        along = Axis(title, "point", 0.5, len(sweep.points) + 0.5, names=names)
    else:
        wide = min(xs) > 0 and max(xs) > 30 * min(xs)
        pad = 0 if wide else (max(xs) - min(xs)) * 0.03
        title = f"{where}, log scale" if wide else where
        along = Axis(title, "count", min(xs) - pad, max(xs) + pad, log=wide)
    return Figure(key.removesuffix("_s"), name, summary, along, up, tuple(lines), rules)


def _place(where: str, x: float, point: Point, *, alone: bool) -> str:
    """Which point it is: by its place on the axis, or where that has several, by all its values."""
    if alone:
        return f"{where} {setting_text(_whole(x))}"
    return f"point {point.point} ({_values(list(point.values.values()))})"


def _limit(sweep: Sweep, key: str) -> float | None:
    """The objective of a figure, in seconds, where it is the same at every point."""
    slo = (sweep.scenario or {}).get("slo")
    value = slo.get(key) if isinstance(slo, dict) else None
    varied = any(axis.key == "slo" or axis.key.startswith("slo.") for axis in sweep.axes)
    plausible = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
    return float(value) if plausible and not varied and value is not None else None


def _whole(value: float) -> int | float:
    return int(value) if value.is_integer() else value
