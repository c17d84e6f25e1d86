"""Tables, sentences and commands on the terminal, within its width."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from kvplan.cli.output import visible

if TYPE_CHECKING:
    from rich.console import Console

    from kvplan.reporting.tables import Table

COMMAND_WIDTH = 80

WIDE_GAP, NARROW_GAP = 3, 2
"""Blanks between the columns of a table; less would run "170 ms" into "13 ms"."""


def print_wrapped(text: str, console: Console, indent: str = "  ") -> None:
    """Lines of a sentence, those after the first indented."""
    from rich.text import Text

    for line in textwrap.wrap(visible(text), console.width, subsequent_indent=indent):
        console.print(Text(line))


def width(table: Table, gap: int = WIDE_GAP, folded: int | None = None) -> int:
    """Columns of a terminal that ``grid`` takes, with what is varied ``folded`` to so many if words allow."""
    cells = [table.columns, *table.rows]
    widest = [max(len(row[place]) for row in cells) for place in range(len(table.columns))]
    for place in _axes(table) if folded is not None else ():
        words = [word for row in cells for word in row[place].split()]
        widest[place] = min(widest[place], max(folded or 0, *map(len, words)))
    return sum(widest) + gap * (len(widest) - 1)


def _axes(table: Table) -> range:
    """The columns of what is varied: between the number of a row and its figures."""
    return range(1, table.numeric[1] if len(table.numeric) > 1 else len(table.columns))


def grid(table: Table, gap: int = WIDE_GAP) -> Any:
    """A table for rich, without frames; what is varied folds where the line is too short."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    padding = (0, 1) if gap == WIDE_GAP else (0, 1, 0, 0)
    shown = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=padding)
    axes = _axes(table)
    for place, name in enumerate(table.columns):
        right = place in table.numeric
        shown.add_column(
            Text(name), justify="right" if right else "left", no_wrap=place not in axes, overflow="fold"
        )
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def shell_lines(command: str) -> list[str]:
    """A command over as many lines as it takes, to be pasted as it stands."""
    words, lines = command.split(" --"), []
    lines.append(f"  {words[0]}")
    for option in words[1:]:
        if len(lines[-1]) + len(option) + 5 > COMMAND_WIDTH:
            lines[-1] += " \\"
            lines.append(f"    --{option}")
        else:
            lines[-1] += f" --{option}"
    return lines
