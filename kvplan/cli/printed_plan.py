"""A plan in the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from kvplan.reporting.schema.plan import Plan as Document
    from kvplan.reporting.tables import Table

MIN_CHOICE = 20
"""What is varied folds into so many columns of a terminal, and not into fewer."""


def print_plan(found: "Document", console: "Console") -> None:
    """The answer, the candidates, what to know of them, and the command that simulates the best."""
    from rich.text import Text

    from kvplan.cli.output import visible
    from kvplan.cli.tables import grid, print_wrapped, shell_lines
    from kvplan.reporting.plan import commands, plan_remarks, plan_verdict

    said = plan_verdict(found)
    print_wrapped(said.headline, console, indent="")
    for line in said.detail:
        print_wrapped(line, console, indent="")
    console.print()
    table, left_out = _fitting(found, console.width)
    console.print(grid(table))
    for note in [*left_out, *plan_remarks(found)]:
        print_wrapped(f"- {note}", console)
    for why, command in commands(found):
        console.print()
        print_wrapped(f"{why}:", console)
        for part in shell_lines(command):
            console.print(Text(visible(part)), soft_wrap=True)


def _fitting(found: "Document", columns: int) -> "tuple[Table, list[str]]":
    """The table as a line has room for it, and what it leaves out: the loosest objectives first."""
    from kvplan.cli.tables import width
    from kvplan.reporting.plan import loosest_first, plan_table
    from kvplan.reporting.wording import label, sentence_list

    whole = plan_table(found)
    if width(whole) <= columns:
        return whole, []
    loose = loosest_first(found)
    narrow = [plan_table(found, narrow=True, without=loose[:number]) for number in range(len(loose) or 1)]
    number, table = next(
        ((number, item) for number, item in enumerate(narrow) if width(item, MIN_CHOICE) <= columns),
        (len(narrow) - 1, narrow[-1]),
    )
    if not number:
        return table, []
    names = sentence_list([label(name) for name in loose[:number]])
    return table, [f"no room for {names}, which --format json has"]
