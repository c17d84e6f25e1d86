"""A result as GitHub-flavoured Markdown: tables, and drawings in files beside it.

Equal results give equal text, so a committed report shows in a diff what changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from kvplan.reporting import tables
from kvplan.reporting.absence import absent
from kvplan.reporting.advice import advice
from kvplan.reporting.cautions import cautions, unknowns
from kvplan.reporting.figure import Figure
from kvplan.reporting.figures import figures
from kvplan.reporting.result import Result
from kvplan.reporting.series import MAX_POINTS, downsampled
from kvplan.reporting.step_time import step_time_table
from kvplan.reporting.strategies import replica_tables, strategies_tables
from kvplan.reporting.svg import render as drawing
from kvplan.reporting.tables import Table
from kvplan.reporting.verdict import verdict
from kvplan.reporting.wording import plain

MAX_LISTED = 100

_OUTCOMES = {"met": "met", "missed": "**missed**", "close": "**too close to call**"}


def render_markdown(result: Result, *, pictures: str | None = None) -> str:
    """The report as text.

    Args:
        pictures: name prefix of the drawings to link to (``"report"`` for ``report-memory.svg``, ...), as
            :func:`markdown_pictures` names them; ``None`` leaves them out.
    """
    shown = figures(result)
    missing = absent(result)

    def chart(*keys: str) -> list[str]:
        parts = []
        for key in keys:
            if key in shown:
                parts += _chart(shown[key], pictures)
            elif key in missing:
                parts.append(f"_{escape(missing[key])}_")
        return parts

    said = verdict(result)
    parts = [f"# {escape(said.headline)}", escape(" ".join(said.detail))]
    if said.chips:
        rows = tuple(
            (*map(escape, (chip.name, chip.value, chip.limit)), _OUTCOMES[chip.outcome])
            for chip in said.chips
        )
        parts.append(_rows(("Objective", "Value", "Limit", ""), rows, (1, 2), raw=True))
    parts += _advised(result)
    parts += _section("Read with care", _bullets(cautions(result)))
    parts += _section("Inputs and assumptions", _table(tables.inputs_table(result)))
    parts += ["What the figures leave out:", *_bullets(unknowns(result))]
    parts += _section("Memory bill", chart("memory") + _table(tables.memory_table(result)), always=True)
    parts += _section("Capacity", chart("capacity") + _table(tables.capacity_table(result)), always=True)
    parts += _section("Over time", chart("series", "occupancy", "requests", "hit_ratio"), always=True)
    if (rows_left := downsampled(result)) and pictures:
        parts.append(f"Each line is drawn from at most {MAX_POINTS} of {rows_left} samples, extremes kept.")
    parts += _table(tables.series_table(result)) if "series" not in missing else []
    parts += _section("Where the time goes", chart("step_time") + _captioned(step_time_table(result)))
    latencies = _table(tables.latency_table(result)) + _captioned(tables.intervals_table(result))
    parts += _section("Latency", chart("ttft", "tpot", "e2e") + latencies)
    parts += _section("Totals", _table(tables.totals_table(result)))
    for table in (*strategies_tables(result), *replica_tables(result)):
        parts += _section(f"Memory strategy: {escape(table.caption)}", _table(table))
    accuracy = [escape(plain(result.accuracy.statement)), *_table(tables.accuracy_table(result))]
    parts += _section("Accuracy", [*accuracy, f"Source: {escape(plain(result.accuracy.source))}."])
    notes = _bullets(plain(note) for note in result.trace.notes[:MAX_LISTED])
    parts += _section("Trace", [*_table(tables.trace_table(result)), *notes])
    parts += _section("Warnings", _warnings(result))
    parts += _section("Provenance", [f"```sh\n{fenced(plain(result.provenance.command, 4000))}\n```"])
    parts += _table(tables.files_table(result)) + _table(tables.versions_table(result))
    return "\n\n".join(parts) + "\n"


def markdown_pictures(result: Result, prefix: str) -> dict[str, str]:
    """File name -> standalone SVG of every drawing the Markdown links to."""
    return {
        f"{prefix}-{key.replace('_', '-')}.svg": drawing(figure, standalone=True)
        for key, figure in figures(result).items()
    }


def escape(text: str) -> str:
    """Text that Markdown, tables and HTML in Markdown leave alone."""
    text = re.sub(r"([\\`*\[\]|~#])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fenced(text: str) -> str:
    """Text that cannot close the fence it stands in."""
    return text.replace("```", "` ` `")


def _section(title: str, parts: list[str], *, always: bool = False) -> list[str]:
    return [f"## {title}", *parts] if parts or always else []


def _bullets(items: Iterable[str]) -> list[str]:
    lines = [f"- {escape(item)}" for item in items]
    return ["\n".join(lines)] if lines else []


def _chart(figure: Figure, pictures: str | None) -> list[str]:
    if pictures is None:
        return [f"**{escape(figure.title)}.** {escape(figure.summary)}"]
    name = f"{pictures}-{figure.key.replace('_', '-')}.svg"
    return [f"![{escape(figure.title)}]({quote(name)})", escape(figure.summary)]


def _table(table: Table | None) -> list[str]:
    if table is None or not table.rows:
        return []
    parts = [table_markdown(table)]
    return [*parts, f"{table.left_off} more rows are in result.json."] if table.left_off else parts


def table_markdown(table: Table) -> str:
    """Columns and rows, without the caption."""
    return _rows(table.columns, table.rows, table.numeric)


def _captioned(table: Table | None) -> list[str]:
    return [] if table is None else [f"{escape(table.caption)}.", *_table(table)]


def _rows(
    columns: tuple[str, ...],
    rows: Iterable[tuple[str, ...]],
    numeric: tuple[int, ...],
    *,
    raw: bool = False,
) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell if raw else escape(cell) for cell in cells) + " |"

    rule = "|".join(" ---: " if index in numeric else " --- " for index in range(len(columns)))
    return "\n".join([line(columns), f"|{rule}|", *(line(row) for row in rows)])


def _advised(result: Result) -> list[str]:
    found = advice(result)
    if found is None:
        return []
    said = [f"**{escape(found.limit)}** {escape(found.evidence)}"]
    parts = _section("What limits it", [*said, escape(found.replicas)] if found.replicas else said)
    tried = [
        part
        for step in found.steps
        for part in (f"{escape(step.why)}:", f"```sh\n{fenced(step.command)}\n```")
    ]
    return [
        *parts,
        *_section("Next step", ["What each gives is for its run to say.", *tried] if tried else []),
    ]


def _warnings(result: Result) -> list[str]:
    parts = _bullets(plain(text) for text in result.warnings[:MAX_LISTED])
    left = len(result.warnings) - MAX_LISTED
    return [*parts, f"{left} more are in result.json."] if left > 0 else parts
