"""The tables of a ``kvplan.sweep/1`` document: for people, for Markdown, for spreadsheets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvplan.reporting.markdown import escape
from kvplan.reporting.tables import Table
from kvplan.reporting.wording import count, decimal, percent, plain, seconds, sentence_list, setting_text
from kvplan.scenario.figures import FIGURES
from kvplan.units import format_bytes

Point = Mapping[str, Any]

GROUPS = (
    ("Hits", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99"),
    ("Tokens/s", "Preempted", "Evicted", "Moved", "Peak KV"),
)
"""Columns that stand together where a line is too short for all."""


def point_table(document: Mapping[str, Any], group: int | None = None, *, axes: bool = True) -> Table:
    """One row a point: what was varied and the figures (of one group of ``GROUPS``, or all).

    Without ``axes`` the points are numbers, to be looked up in :func:`legend`.
    """
    names = GROUPS[group] if group is not None else tuple(name for part in GROUPS for name in part)
    keys = [axis["key"] for axis in document["axes"]] if axes else []
    rows = []
    for point in document["points"]:
        head = (str(point["point"]), *(setting_text(point["values"][key]) for key in keys))
        cells = _cells(point)
        rows.append((*head, *(cells[name] for name in names)))
    columns = ("Point", *(_short(key, keys) for key in keys), *names)
    numeric = (0, *range(1 + len(keys), len(columns)))
    return Table("One simulation a row", columns, tuple(rows), numeric)


def legend(document: Mapping[str, Any]) -> list[str]:
    """What each point is, for tables that have no room for it."""
    return [
        f"{point['point']}: " + ", ".join(f"{plain(k)}={setting_text(v)}" for k, v in point["values"].items())
        for point in document["points"]
    ]


def _cells(point: Point) -> dict[str, str]:
    figures = point["figures"]
    if figures is None:
        return {name: "–" for part in GROUPS for name in part} | {"Hits": point["status"]}
    peak = figures["peak_used_bytes"]
    return {
        "Hits": percent(figures["hit_ratio"]),
        "TTFT p50": seconds(figures["ttft_p50_s"]),
        "TTFT p99": seconds(figures["ttft_p99_s"]),
        "TPOT p50": seconds(figures["tpot_p50_s"]),
        "TPOT p99": seconds(figures["tpot_p99_s"]),
        "Tokens/s": decimal(figures["output_tokens_per_s"]),
        "Preempted": count(figures["preemptions"]),
        "Evicted": count(figures["evicted_blocks"]),
        "Moved": format_bytes(figures["moved_bytes"]),
        "Peak KV": f"{count(figures['peak_used_blocks'])} blocks" if peak is None else format_bytes(peak),
    }


MISSED = "a service-level objective is missed"


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, where no other key ends so."""
    last = key.rpartition(".")[2]
    same = [other for other in keys if other.rpartition(".")[2] == last]
    return plain(last if len(same) == 1 else key, 40)


def remarks(document: Mapping[str, Any]) -> list[str]:
    """What the table does not say: failures with their reasons, what was not served, missed objectives."""
    found = document.get("highest")
    answer = [] if found is None else [highest_sentence(found), *highest_doubts(document)]
    said: dict[str, list[str]] = {}
    for point in document["points"]:
        for text in _remarks(point):
            said.setdefault(text, []).append(str(point["point"]))
    return answer + [
        f"{'point' if len(numbers) == 1 else 'points'} {sentence_list(numbers)}: {text}"
        for text, numbers in said.items()
    ]


_LOADS = {
    "workload.rate": "{} requests a second",
    "workload.rate_scale": "{} times the trace's rate",
    "workload.max_in_flight": "{} requests in flight",
    "workload.max_sessions": "{} sessions at a time",
}


def load_text(key: str, value: float) -> str:
    """A value of a field in words, where it is a kind of load."""
    said = _LOADS.get(key, f"{plain(key)} = {{}}").format(f"{value:g}")
    return said.replace("1 requests", "1 request").replace("1 sessions", "1 session") if value == 1 else said


def highest_sentence(found: Mapping[str, Any]) -> str:
    """The answer of a search for the highest value."""
    key, passed, missed = found["key"], found["passed"], found["missed"]
    if passed is None and found.get("met_above") is not None:
        return (
            f"every objective is met at {load_text(key, found['met_above'])}, and not at {missed:g}: more is "
            "better here, and there is no highest value to find"
        )
    if passed is None:
        least = "" if missed is None else f", not even at {load_text(key, missed)}"
        return f"the objectives are not met{least}"
    beyond = "nothing higher was tried" if missed is None else f"at {missed:g} not"
    return f"every objective is met up to {load_text(key, passed)} ({beyond})"


GROWING = 1.2
"""Requests in the engine late in a run over those at its middle, from which the run was too short."""


def highest_doubts(document: Mapping[str, Any]) -> list[str]:
    """What is to be known about the answer of a search."""
    found = document["highest"]
    key, passed = found["key"], found["passed"]
    points = {point["values"][key]: point["figures"] for point in document["points"] if point["figures"]}
    figures = points.get(passed)
    if figures is None:
        return []
    said = []
    below = [value for value, other in points.items() if value < passed and other == figures]
    if below:
        said.append(f"from {load_text(key, min(below))} on it makes no difference")
    growing = figures.get("growth")
    if key not in ("workload.rate", "workload.rate_scale"):
        return said
    if growing is None:
        said.append(
            f"at {passed:g} the workload is over before its first requests are: with more of them (-n) the "
            "answer may be lower"
        )
    elif growing > GROWING:
        said.append(
            f"at {passed:g} the engine was still filling up as the workload ended ({growing:.2g} times as "
            "many requests in it as at its middle): with more requests (-n) the answer may be lower"
        )
    return said


def _remarks(point: Point) -> Iterator[str]:
    error, figures = point["error"], point["figures"]
    if error is not None:
        reason = ": ".join(plain(part) for part in (error["where"], error["message"]) if part)
        yield f"failed, {reason}" + (f" ({plain(error['hint'])})" if error["hint"] else "")
    elif figures is None:
        yield "not run: the sweep was interrupted"
    else:
        lost = [
            f"{count(figures[name])} {name.replace('_', ' ')}"
            for name in ("rejected", "timed_out", "unfinished")
            if figures[name]
        ]
        if lost:
            yield f"not all served: {sentence_list(lost)}"
        if figures["slo_met"] is False:
            yield MISSED


def sweep_markdown(document: Mapping[str, Any]) -> str:
    """The whole table and its remarks as GitHub-flavoured Markdown."""
    table = point_table(document)
    rule = "|".join(" ---: " if place in table.numeric else " --- " for place in range(len(table.columns)))
    lines = [" | ".join(map(escape, cells)) for cells in (table.columns, *table.rows)]
    rows = [f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])]
    notes = [f"- {escape(note)}" for note in remarks(document)]
    return "\n".join([*rows, "", *notes]).rstrip() + "\n"


def csv_columns(document: Mapping[str, Any]) -> list[str]:
    """Names of the columns of :func:`csv_rows`."""
    return ["point", *(axis["key"] for axis in document["axes"]), "status", *FIGURES, "error"]


def csv_rows(document: Mapping[str, Any]) -> list[list[object]]:
    """One row a point, raw numbers in base units, empty cells for what there is not."""
    rows: list[list[object]] = []
    for point in document["points"]:
        figures = point["figures"] or {}
        values = [setting_text(value) for value in point["values"].values()]
        numbers = [figures.get(name) for name in FIGURES]
        error = plain(point["error"]["message"]) if point["error"] else None
        rows.append([point["point"], *values, point["status"], *numbers, error])
    return [[_csv(cell) for cell in row] for row in rows]


def _csv(cell: object) -> object:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@"):
        return f"'{cell}"
    return cell
