"""A plan in the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

    from kvplan.reporting.schema.plan import Plan as Document
    from kvplan.reporting.tables import Table

MIN_CHOICE = 10
"""Each thing that is varied folds into so many columns of a terminal, and not into fewer."""


def print_plan(found: "Document", console: "Console") -> None:
    """The answer, the candidates, what to know of them, and the command that simulates the best."""
    from rich.text import Text

    from kvplan.cli.output import visible
    from kvplan.cli.tables import grid, print_wrapped, shell_lines
    from kvplan.reporting.plan import commands, plan_remarks, plan_verdict
    from kvplan.reporting.wording import label, sentence_list

    said = plan_verdict(found)
    print_wrapped(said.headline, console, indent="")
    for line in said.detail:
        print_wrapped(line, console, indent="")
    console.print()
    shown = _fitting(found, console.width)
    for line in shown.legend:
        print_wrapped(line, console)
    if shown.legend:
        console.print()
    console.print(grid(shown.table, shown.gap))
    notes = plan_remarks(found)
    if shown.without:
        left = sentence_list([label(name) for name in shown.without])
        notes = [f"no room for {left}, which --format json has", *notes]
    for note in notes:
        print_wrapped(f"- {note}", console)
    for why, command in commands(found):
        console.print()
        print_wrapped(f"{why}:", console)
        for part in shell_lines(command):
            console.print(Text(visible(part)), soft_wrap=True)


class _Shown(NamedTuple):
    """A table as a line has room for it: the gap of its columns, latencies left out, choices listed above."""

    table: "Table"
    gap: int
    without: Sequence[str] = ()
    legend: Sequence[str] = ()


def _fitting(found: "Document", columns: int) -> _Shown:
    """Columns move closer, then what is varied folds, then objectives are left out, the loosest first.

    What is varied is listed above where all that does not help.
    """
    from kvplan.cli.tables import NARROW_GAP, WIDE_GAP, width
    from kvplan.reporting.plan import loosest_first, plan_table, ranked
    from kvplan.reporting.sweep import legend

    loose = loosest_first(found)
    fewer = [loose[:number] for number in range(len(loose) or 1)]
    for without in fewer:
        whole = plan_table(found, without=without)
        for gap, folded in ((WIDE_GAP, None), (NARROW_GAP, None), (NARROW_GAP, MIN_CHOICE)):
            if width(whole, gap, folded) <= columns:
                return _Shown(whole, gap, without)
    listed = legend((item.candidate, item.values) for item in ranked(found))
    numbered = [_Shown(plan_table(found, without=w, axes=False), NARROW_GAP, w, listed) for w in fewer]
    return next((item for item in numbered if width(item.table, item.gap) <= columns), numbered[-1])
