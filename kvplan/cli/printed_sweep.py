"""A sweep in the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from kvplan.reporting.schema.sweep import Sweep


def print_sweep(sweep: "Sweep", console: "Console") -> None:
    """The answer, then all figures in one table where the line is long enough, else one a group of figures.

    What is varied is listed above the tables where one of them has no room for it.

    Of a search with runs of several lengths only the points that its answer rests on.
    """
    from kvplan.cli.tables import grid, print_wrapped, width
    from kvplan.reporting.highest import of_answer
    from kvplan.reporting.sweep import GROUPS, legend, point_table, remarks
    from kvplan.reporting.sweep_verdict import sweep_verdict

    print_wrapped(sweep_verdict(sweep).headline, console, indent="")
    console.print()
    notes = remarks(sweep.document())
    document = dict(of_answer(sweep.document()))
    shown = [point_table(document)]
    if width(shown[0]) > console.width:
        axes = all(width(point_table(document, group)) <= console.width for group in range(len(GROUPS)))
        points = [] if axes else [(point["point"], point["values"]) for point in document["points"]]
        for line in legend(points):
            print_wrapped(line, console)
        if not axes:
            console.print()
        shown = [point_table(document, group, axes=axes) for group in range(len(GROUPS))]
    for place, table in enumerate(shown):
        if place:
            console.print()
        console.print(grid(table))
    for note in notes:
        print_wrapped(f"- {note}", console)
