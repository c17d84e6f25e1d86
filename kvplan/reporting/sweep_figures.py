"""The charts of a sweep: every figure against what was varied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kvplan.reporting.figure import COLOURS, SYMBOLS, Axis, Figure, Line, Rule, Unit
from kvplan.reporting.highest import REQUESTS
from kvplan.reporting.schema.sweep import Figures, Point, Sweep
from kvplan.reporting.svg import label_room
from kvplan.reporting.sweep import short
from kvplan.reporting.wording import (
    MAX_TEXT,
    decimal,
    percent,
    plain,
    plural,
    seconds,
    setting_text,
    significant,
)

MAX_LINES = 8
"""Most lines of a chart; with more of them a chart is of points."""

MAX_SYMBOLS = 20
"""Most points of a line that are marked."""

Show = Callable[[float], str]

_Found = tuple[float, Point, Figures]
"""Where a point is on the axis, which one it is, and what came out."""


def sweep_figures(sweep: Sweep) -> list[Figure]:
    """A chart a figure: against the last axis that is a number, else point by point."""
    across = next((axis.key for axis in reversed(sweep.axes) if is_numeric(axis.values)), None)
    others = [axis.key for axis in sweep.axes if axis.key != across]
    groups: dict[str, list[_Found]] = {}
    searched = sweep.highest is not None and others == [REQUESTS]
    if across is not None:
        for point, figures in done_points(sweep):
            name = ", ".join(_valued(key, point.values[key], others) for key in others)
            name = _run_name(sweep, point) if searched else name
            groups.setdefault(name, []).append((float(point.values[across]), point, figures))
        groups = dict(zip(_names(list(groups)), groups.values(), strict=True))
    if not 0 < len(groups) <= MAX_LINES:
        across, groups = (
            None,
            {"": [(float(point.point), point, figures) for point, figures in done_points(sweep)]},
        )
    names = () if across is not None else _point_names(sweep)
    made = (_chart(sweep, key, name, unit, across, groups, names) for key, name, unit in _CHARTS)
    return [figure for figure in made if figure is not None]


def _is_trial(sweep: Sweep, point: Point) -> bool:
    """Whether a search made this run, and then longer ones that its answer rests on."""
    found = sweep.highest
    return found is not None and REQUESTS in point.values and point.values[REQUESTS] != found.requests


def _run_name(sweep: Sweep, point: Point) -> str:
    """A run of a search by its length, which is what tells it from the others."""
    number = point.values[REQUESTS]
    requests = plural(number, "request") if type(number) is int else setting_text(number, MAX_TEXT)
    return f"trial of {requests}" if _is_trial(sweep, point) else requests


def _valued(key: str, value: Any, keys: Sequence[str]) -> str:
    """``fp8``, and ``requests 200``: a number alone says nothing."""
    text = setting_text(value, MAX_TEXT)
    return f"{short(key, keys)} {text}" if type(value) in (int, float) else text


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
    whole = [values_text(list(point.values.values())) for point in sweep.points]
    most = label_room(len(whole))
    return tuple(_names(whole, most)) if most >= min(LEAST_NAME, max(map(len, whole))) else ()


_CHARTS: tuple[tuple[str, str, Unit], ...] = (
    ("ttft_p99_s", "TTFT p99", "seconds"),
    ("tpot_p99_s", "TPOT p99", "seconds"),
    ("output_tokens_per_s", "Output tokens per second", "count"),
    ("cost_per_million_output_tokens", "Cost per million output tokens", "count"),
    ("hit_ratio", "Prefix hit ratio", "percent"),
)


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether values are numbers of an axis."""
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
    seen = [
        (x, getattr(f, key), point)
        for found in groups.values()
        for x, point, f in found
        if getattr(f, key) is not None
    ]
    kept = [pair for pair in seen if not _is_trial(sweep, pair[2])] or seen
    lines: list[Line] = []
    for index, (group, found) in enumerate(groups.items()):
        known = sorted((x, getattr(f, key)) for x, _, f in found if getattr(f, key) is not None)
        if known:
            crowded = across is not None and len(known) > MAX_SYMBOLS
            symbol = None if crowded else SYMBOLS[index % len(SYMBOLS)]
            y: list[float | None] = [significant(value) for _, value in known]
            lines.append(
                Line(
                    group,
                    [x for x, _ in known],
                    y,
                    index % COLOURS + 1 if len(kept) == len(seen) else 1,
                    symbol,
                    joined=across is not None,
                    dashed=index >= COLOURS,
                    faint=len(kept) < len(seen) and _is_trial(sweep, found[0][1]),
                )
            )
    if len(seen) < 2:
        return None
    xs, ys = [x for x, _, _ in seen], [y for _, y, _ in seen]
    show: Show = {"seconds": seconds, "percent": percent}.get(unit, decimal)  # type: ignore[assignment]
    low, high = min(kept, key=lambda pair: pair[1]), max(kept, key=lambda pair: pair[1])
    where = "point" if across is None else plain(across, 80)
    alone = across is not None and (len(groups) == 1 or 0 < len(kept) < len(seen))
    ends = (f"{show(y)} at {_place(where, x, point, alone=alone)}" for x, y, point in (low, high))
    summary = (
        f"From {' to '.join(ends)}."
        if low[1] != high[1]
        else f"{show(low[1])} {everywhere(sweep, len(kept))}."
    )
    if len(kept) < len(seen):
        summary += " In grey the shorter runs that led there, which flatter every load."
    limit = limit_of(sweep, key)
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
    return f"point {point.point} ({values_text(list(point.values.values()))})"


def limit_of(sweep: Sweep, key: str) -> float | None:
    """The objective of a figure, in seconds, where it is the same at every point."""
    slo = (sweep.scenario or {}).get("slo")
    value = slo.get(key) if isinstance(slo, dict) else None
    varied = any(axis.key == "slo" or axis.key.startswith("slo.") for axis in sweep.axes)
    plausible = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
    return float(value) if plausible and not varied and value is not None else None


def _whole(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def done_points(sweep: Sweep) -> list[tuple[Point, Figures]]:
    """The points that have figures."""
    return [(point, point.figures) for point in sweep.points if point.figures is not None]


def values_text(values: Sequence[Any]) -> str:
    """The first of some values."""
    shown = [setting_text(value) for value in values[:8]]
    return ", ".join(shown) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def everywhere(sweep: Sweep, known: int) -> str:
    """Where something is the same."""
    return "at every point" if known == len(sweep.points) else f"at all {known} points that have it"
