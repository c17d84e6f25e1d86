"""The tables of a ``kvplan.sweep/1`` document: for people and for spreadsheets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kvplan.reporting.csv import table_csv
from kvplan.reporting.highest import highest_remarks, of_answer
from kvplan.reporting.tables import Table
from kvplan.reporting.wording import (
    count,
    decimal,
    numbers_text,
    percent,
    plain,
    seconds,
    sentence_list,
    setting_text,
)
from kvplan.scenario.figures import FIGURES, UNSERVED
from kvplan.units import format_bytes

Point = Mapping[str, Any]

COST = "Cost/M"
"""Cost of a million output tokens, in the scenario's currency."""

COST_KEY = "cost_per_million_output_tokens"

GROUPS = (
    ("Hits", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99"),
    ("Tokens/s", COST, "Preempted", "Evicted", "Moved", "Peak KV"),
)
"""Columns that stand together where a line is too short for all; costs only where there are prices."""


def point_table(document: Mapping[str, Any], group: int | None = None, *, axes: bool = True) -> Table:
    """One row a point: what was varied and the figures (of one group of ``GROUPS``, or all).

    Without ``axes`` the points are numbers, to be looked up in :func:`legend`.
    """
    names = GROUPS[group] if group is not None else tuple(name for part in GROUPS for name in part)
    if all((point["figures"] or {}).get(COST_KEY) is None for point in document["points"]):
        names = tuple(name for name in names if name != COST)
    keys = [axis["key"] for axis in document["axes"]] if axes else []
    rows = []
    for point in document["points"]:
        head = (str(point["point"]), *(setting_text(point["values"][key]) for key in keys))
        cells = _cells(point)
        rows.append((*head, *(cells[name] for name in names)))
    columns = ("Point", *(short(key, keys) for key in keys), *names)
    numeric = (0, *range(1 + len(keys), len(columns)))
    return Table("One simulation a row", columns, tuple(rows), numeric)


def legend(numbered: Iterable[tuple[int, Mapping[str, object]]]) -> list[str]:
    """What each point or candidate is, by its number, for tables that have no room for it."""
    return [
        f"{number}: " + ", ".join(f"{plain(key)}={setting_text(value)}" for key, value in values.items())
        for number, values in numbered
    ]


def _cells(point: Point) -> dict[str, str]:
    figures = point["figures"]
    if figures is None:
        return {name: "–" for part in GROUPS for name in part} | {"Hits": point["status"]}
    return {
        "Hits": percent(figures["hit_ratio"]),
        "TTFT p50": seconds(figures["ttft_p50_s"]),
        "TTFT p99": seconds(figures["ttft_p99_s"]),
        "TPOT p50": seconds(figures["tpot_p50_s"]),
        "TPOT p99": seconds(figures["tpot_p99_s"]),
        "Tokens/s": decimal(figures["output_tokens_per_s"]),
        COST: "–" if figures.get(COST_KEY) is None else decimal(figures[COST_KEY]),
        "Preempted": count(figures["preemptions"]),
        "Evicted": _memory(figures, "evicted"),
        "Moved": format_bytes(figures["moved_bytes"]),
        "Peak KV": _memory(figures, "peak_used"),
    }


def _memory(figures: Mapping[str, Any], name: str) -> str:
    """In bytes, as blocks of points can have several sizes; in blocks where nobody knows theirs."""
    size = figures.get(f"{name}_bytes")
    return f"{count(figures[f'{name}_blocks'])} blocks" if size is None else format_bytes(size)


MISSED = "a service-level objective is missed"


def short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, where no other key ends so."""
    last = key.rpartition(".")[2]
    same = [other for other in keys if other.rpartition(".")[2] == last]
    return plain(last if len(same) == 1 else key, 40)


def remarks(document: Mapping[str, Any], points: Sequence[Point] | None = None) -> list[str]:
    """What verdict and table do not say: failures with their reasons, what was not served, missed objectives.

    Args:
        document: a ``kvplan.sweep/1`` document.
        points: those of the table; of a search the ones that its answer rests on, unless others are given.
    """
    said: dict[str, list[int]] = {}
    points = of_answer(document)["points"] if points is None else points
    for point in points:
        for text in _remarks(point):
            said.setdefault(text, []).append(point["point"])
    whose = [
        f"{'point' if len(numbers) == 1 else 'points'} {numbers_text(numbers)}: {text}"
        for text, numbers in said.items()
    ]
    warned = [(point["point"], point.get("warnings", ())) for point in points if point["figures"]]
    answer = [] if document.get("highest") is None else highest_remarks(document)
    return [*answer, *whose, *warnings_of(warned, "points")]


def warnings_of(warned: Sequence[tuple[int, Sequence[str]]], called: str) -> list[str]:
    """The warnings of runs by number, each once, and whose it is where it is not everyone's."""
    said: dict[str, list[int]] = {}
    for number, texts in warned:
        for text in texts:
            said.setdefault(plain(text), []).append(number)
    return [
        text
        if len(numbers) == len(warned)
        else f"{called if len(numbers) > 1 else called[:-1]} {numbers_text(numbers)}: {text}"
        for text, numbers in said.items()
    ]


def _remarks(point: Point) -> Iterator[str]:
    error, figures = point["error"], point["figures"]
    if error is not None:
        yield f"failed, {failure_text(error)}"
    elif figures is None:
        yield "not run: the sweep was interrupted"
    else:
        lost = unserved_text(figures)
        if lost:
            yield lost
        if figures["slo_met"] is False:
            yield MISSED


def failure_text(error: Mapping[str, Any]) -> str:
    """``where: message (hint)`` of what could not be simulated."""
    reason = ": ".join(plain(part) for part in (error["where"], error["message"]) if part)
    return reason + (f" ({plain(error['hint'])})" if error["hint"] else "")


def unserved_text(figures: Mapping[str, Any]) -> str:
    """``not all served: 3 rejected``; empty where all requests were."""
    lost = [f"{count(figures[name])} {name.replace('_', ' ')}" for name in UNSERVED if figures[name]]
    return f"not all served: {sentence_list(lost)}" if lost else ""


def sweep_csv(document: Mapping[str, Any]) -> str:
    """One row a point, raw numbers in base units."""
    columns = ["point", *(axis["key"] for axis in document["axes"]), "status", *FIGURES, "error"]
    return table_csv(columns, _rows(document))


def _rows(document: Mapping[str, Any]) -> list[list[object]]:
    rows: list[list[object]] = []
    for point in document["points"]:
        figures = point["figures"] or {}
        values = [plain(value) if isinstance(value, str) else value for value in point["values"].values()]
        numbers = [figures.get(name) for name in FIGURES]
        error = plain(point["error"]["message"]) if point["error"] else None
        rows.append([point["point"], *values, point["status"], *numbers, error])
    return rows
