"""``kvplan diff``: two results side by side."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvplan.cli.options import FormatOption, OutputFormat
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.reporting.comparison import Change, Comparison, LatencyChange
    from kvplan.reporting.tables import Table

WORDS = {
    "equal": "equal",
    "beyond": "beyond the bands",
    "within": "within the bands",
    "unknown": "no bands",
}


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A result of kvplan simulate; - reads stdin.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The result to compare it with.")],
    format: FormatOption = OutputFormat.table,
) -> None:
    """Compare two saved results: scenario fields, counters and strategy figures that differ, latencies.

    Of each latency it says whether the difference is beyond the error bands of both.
    """
    from kvplan.cli.output import answer, csv_text, print_json
    from kvplan.reporting.comparison import compare
    from kvplan.reporting.loading import load_result

    if a == b == "-":
        raise UsageError("standard input holds one result", hint="name a file for the other")
    found = compare(load_result(a), load_result(b))
    if format is OutputFormat.json:
        print_json(found.to_dict(a, b))
    elif format is OutputFormat.csv:
        columns = ("group", "name", "a", "b", "unit", "ratio", "judgement")
        answer(csv_text(columns, _csv_rows(found)))
    elif format is OutputFormat.md:
        answer(_markdown(found, a, b))
    else:
        _print(found, a, b)


HEADLINE = {
    "ttft_p99": "TTFT p99", "tpot_p99": "TPOT p99", "output_tokens_per_s": "output tokens a second",
    "hit_ratio": "prefix hits",
}  # fmt: skip


def _headline(found: "Comparison") -> str:
    """What B changes of what people ask first, in one sentence; nothing where nothing of it changed."""
    judged = {item.change.name: item for item in found.latency if item.judgement != "equal"}
    said = []
    for name, words in HEADLINE.items():
        item = judged.get(name)
        change = item.change if item else next((c for c in found.totals if c.name == name), None)
        by = "" if change is None else _by(change)
        if by:
            said.append(f"{words} {by}" + (f" ({_judged(item)})" if item else ""))
    return f"B against A: {', '.join(said)}." if said else ""


def _groups(found: "Comparison") -> "list[tuple[str, Sequence[Change]]]":
    return [
        ("Scenario", found.scenario), ("Totals", found.totals), ("Memory strategies", found.strategies),
    ]  # fmt: skip


def _csv_rows(found: "Comparison") -> Iterator[tuple[object, ...]]:
    for group, changes in _groups(found):
        for change in changes:
            yield group.lower(), *_raw(change), ""
    for item in found.latency:
        yield "latency", *_raw(item.change), item.judgement


def _raw(change: "Change") -> tuple[object, ...]:
    from kvplan.reporting.csv import inert
    from kvplan.reporting.wording import setting_text

    cells = (change.name, change.a, change.b, change.unit, change.ratio)
    return tuple(
        "" if cell is None else cell if isinstance(cell, (int, float)) else inert(setting_text(cell))
        for cell in cells
    )


def _tables(found: "Comparison") -> "list[Table]":
    """What differs, as text; latencies always."""
    from kvplan.reporting.tables import Table
    from kvplan.reporting.wording import LATENCIES

    shown = [
        Table(title, (title, "A", "B", "Change"), tuple(_row(change) for change in changes), (1, 2, 3))
        for title, changes in _groups(found)
        if changes
    ]
    rows = []
    for item in found.latency:
        latency, statistic = item.change.name.split("_")
        name = f"{LATENCIES[f'{latency}_s'][0]} {statistic}"
        rows.append((name, *_row(item.change)[1:], _judged(item)))
    columns = ("Latency", "A", "B", "Change", "Difference")
    return [*shown, Table("Latency", columns, tuple(rows), (1, 2, 3))] if rows else shown


def _row(change: "Change") -> tuple[str, ...]:
    from kvplan.reporting.wording import plain

    return plain(change.name, 60), _value(change.a, change.unit), _value(change.b, change.unit), _by(change)


def _by(change: "Change") -> str:
    """By how much: in points for shares, as a percentage or a factor for numbers, nothing for settings."""
    from kvplan.reporting.wording import change_text

    ratio = change.ratio
    if ratio is None or ("." in change.name and not change.unit):
        return ""
    if change.unit == "1" and isinstance(change.a, float) and max(change.a, change.b) <= 1.0:
        return f"{100 * (change.b - change.a):+.1f} points"
    return change_text(ratio)


def _value(value: Any, unit: str) -> str:
    from kvplan.reporting.schema.outcome import Metric
    from kvplan.reporting.strategies import figure
    from kvplan.reporting.wording import setting_text, value_text

    if value is None:
        return "–"
    if isinstance(value, (list, dict)):
        return setting_text(value)
    if isinstance(value, (bool, str)) or unit == "":
        return value_text(value)
    return figure(Metric(name="", value=value, unit=unit, meaning=""))


def _judged(item: "LatencyChange") -> str:
    return WORDS[item.judgement]


def _markdown(found: "Comparison", a: str, b: str) -> str:
    from kvplan.reporting.markdown import escape

    parts = [f"A: {escape(a)}  \nB: {escape(b)}"]
    if said := _headline(found):
        parts.append(escape(said))
    for table in _tables(found):
        rule = "|".join(" ---: " if n in table.numeric else " --- " for n in range(len(table.columns)))
        lines = [f"| {' | '.join(map(escape, cells))} |" for cells in (table.columns, *table.rows)]
        parts.append("\n".join([lines[0], f"|{rule}|", *lines[1:]]))
    if found.notes:
        parts.append("\n".join(f"- {escape(note)}" for note in found.notes))
    return "\n\n".join(parts)


def _print(found: "Comparison", a: str, b: str) -> None:
    import textwrap

    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    from kvplan.cli.output import stdout_console
    from kvplan.reporting.wording import plain

    console = stdout_console()
    console.print(Text(f"A  {plain(a)}\nB  {plain(b)}"))
    if not (found.scenario or found.totals or found.strategies):
        console.print(Text("They do not differ."))
    if said := _headline(found):
        for line in textwrap.wrap(said, console.width, subsequent_indent="   "):
            console.print(Text(line))
    for table in _tables(found):
        console.print()
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for place, name in enumerate(table.columns):
            right = place in table.numeric
            grid.add_column(Text(name), justify="right" if right else "left", overflow="fold")
        for row in table.rows:
            grid.add_row(*map(Text, row))
        console.print(grid)
    if found.notes:
        console.print()
    for note in found.notes:
        for line in textwrap.wrap(note, console.width - 2, initial_indent="- ", subsequent_indent="  "):
            console.print(Text(line))
