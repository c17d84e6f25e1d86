"""``kvplan diff``: two results side by side."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvplan.cli.options import FormatOption, OutputFormat
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.reporting.comparison import Comparison
    from kvplan.reporting.result import Result


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A result of kvplan simulate; - reads stdin.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The result to compare it with.")],
    html: Annotated[str | None, typer.Option("--html", help="Write the comparison as an HTML page.")] = None,
    format: FormatOption = OutputFormat.table,
) -> None:
    """Compare two saved results: scenario fields, counters and strategy figures that differ, latencies.

    Of each latency it says whether the difference is beyond the error bands of both.
    """
    from kvplan.cli.files import check_outputs
    from kvplan.cli.output import answer, print_json
    from kvplan.reporting.comparison import compare
    from kvplan.reporting.comparison_text import comparison_csv, comparison_markdown
    from kvplan.reporting.loading import load_result

    if a == b == "-":
        raise UsageError("standard input holds one result", hint="name a file for the other")
    standard = check_outputs({"--html": html}, {"A": a, "B": b})
    first, second = load_result(a), load_result(b)
    found = compare(first, second)
    if html is not None:
        _write_page(found, (a, first), (b, second), html)
    if standard is not None:
        return
    if format is OutputFormat.json:
        print_json(found.to_dict(a, b))
    elif format is OutputFormat.csv:
        answer(comparison_csv(found))
    elif format is OutputFormat.md:
        answer(comparison_markdown(found, a, b))
    else:
        _print(found, a, b)


def _write_page(found: "Comparison", a: "tuple[str, Result]", b: "tuple[str, Result]", html: str) -> None:
    from kvplan.cli.commands.report import write_page
    from kvplan.reporting.comparison_page import render_comparison

    text = render_comparison(found, a, b)
    if html == "-":
        sys.stdout.write(text)
    else:
        write_page(Path(html), text)


def _print(found: "Comparison", a: str, b: str) -> None:
    import textwrap

    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    from kvplan.cli.output import stdout_console
    from kvplan.reporting.comparison_text import answers, comparison_tables
    from kvplan.reporting.wording import plain

    console = stdout_console()
    console.print(Text(f"A  {plain(a)}\nB  {plain(b)}"))
    if not (found.scenario or found.totals or found.strategies):
        console.print(Text("They do not differ."))
    for said in answers(found):
        for line in textwrap.wrap(said, console.width, subsequent_indent="   "):
            console.print(Text(line))
    for table in comparison_tables(found):
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
