"""A result on the terminal: the answer, then the figures, within 80 columns and without colour too."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kvplan.reporting.advice import advice
from kvplan.reporting.cautions import cautions
from kvplan.reporting.cost import cost_text
from kvplan.reporting.result import Result
from kvplan.reporting.step_time import bounds_text, busy_share, parts_text, peaks_text
from kvplan.reporting.strategies import strategies_tables
from kvplan.reporting.tables import Table, intervals_table
from kvplan.reporting.verdict import reused_ratio, verdict
from kvplan.reporting.wording import LATENCIES, count, decimal, percent, plain, plural, seconds
from kvplan.units import format_bytes

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

MAX_WARNINGS = 8

_ASCII = str.maketrans(
    {
        "✓": "+",
        "✗": "x",
        "·": "-",
        "–": "-",
        "−": "-",
        "µ": "u",
        "…": "~",
        "≈": "~",
        "“": '"',
        "”": '"',
    }
)

_STYLES = {"met": "bold green", "missed": "bold red", "partial": "bold yellow", "neutral": "bold"}

_SIGNS = {"met": ("✓", "green"), "missed": ("✗", "red"), "close": ("≈", "yellow")}

OFFLOADING = "tiers.host.connector"
"""The assumption that says how vLLM is told to keep KV in host memory."""

FEW_ZEROS = 4
"""From so many figures of a section that are zero on, they share a line."""

_ZERO = re.compile(r"0(\.0%)?( [^ ]+)?")

Write = Callable[..., "Text"]


def in_ascii(line: str) -> str:
    """The same for a stream without UTF-8, as wide as it was."""
    return line.translate(_ASCII).encode("ascii", "replace").decode()


def summary_table(result: Result) -> RenderableType:
    """What ``kvplan simulate`` prints after a run; print it with any rich console.

    Text of the result is never read as markup, and signs become ASCII where the stream has no UTF-8.
    """
    return _Summary(result)


class _Summary:
    """Defers all wording until rich says what the stream can show."""

    def __init__(self, result: Result) -> None:
        self.result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        def write(line: str, style: str = "") -> Text:
            if options.ascii_only:
                line = in_ascii(line)
            return Text(line, style=style)

        said = verdict(self.result)
        yield from _wrapped("", said.headline, write, options.max_width, _STYLES[said.tone])
        for chip in said.chips:
            sign, style = _SIGNS[chip.outcome]
            close = ": too close to call" if chip.close else ""
            yield write(f"  {sign} {chip.name} {chip.value}, {chip.relation} {chip.limit}{close}", style)
        for line in said.beside:
            yield from _wrapped("", line, write, options.max_width)
        yield write("")
        for name, value in [*_lines(self.result), *_advised(self.result)]:
            yield from _wrapped(f"{name:13}", value, write, options.max_width)
        yield write("")
        yield _latency(self.result, write)
        intervals = intervals_table(self.result)
        if intervals is not None:
            yield write("")
            yield _intervals(intervals, write, options.max_width)
            source = plain(self.result.accuracy.intervals_source)
            yield from _wrapped("", f"By {source}.", write, options.max_width)
        for table in strategies_tables(self.result):
            yield write("")
            yield from _strategy(table, write, options.max_width)
        notes = [*cautions(self.result), *_about_trace(self.result)]
        notes += map(plain, self.result.warnings[:MAX_WARNINGS])
        left = len(self.result.warnings) - MAX_WARNINGS
        if left > 0:
            notes.append(f"{plural(left, 'more warning')} in the result")
        if notes:
            yield write("")
        for note in notes:
            yield from _wrapped("- ", note, write, options.max_width)


def _about_trace(result: Result) -> list[str]:
    """What reading the trace had to say; that reuse is unknown is a caution already."""
    said = [note for note in result.trace.notes if not note.startswith("reuse unknown")]
    return [f"Trace: {plain(note)}" for note in said[:MAX_WARNINGS]]


def _wrapped(head: str, body: str, write: Write, width: int, style: str = "") -> Iterator[Text]:
    """Lines of ``body`` hanging after ``head``, without padding at their ends."""
    for line in textwrap.wrap(body, max(20, width - len(head))):
        yield write(head + line, style)
        head = " " * len(head)


def _lines(result: Result) -> list[tuple[str, str]]:
    totals, rate = result.totals, result.throughput
    served = [f"{count(totals.finished)} of {count(totals.requests)} finished"]
    if totals.rejected:
        served.append(f"{count(totals.rejected)} rejected")
    if totals.timed_out:
        served.append(f"{count(totals.timed_out)} timed out")
    if totals.unfinished:
        served.append(f"{count(totals.unfinished)} unfinished")
    tokens = f"{count(totals.prompt_tokens)} prompt, {count(totals.output_tokens)} output"
    speed = f"{decimal(rate.requests_per_s)} requests/s, {decimal(rate.output_tokens_per_s)} output tokens/s"
    pool = (
        f"{count(result.pool.usable_blocks)} usable blocks of {plural(result.pool.block_size, 'token')}, "
        f"{percent(result.peak_use)} in use at the peak"
    )
    found = f"{percent(result.hit_ratio)} of {count(totals.queried_tokens)} tokens looked up"
    if (reused := reused_ratio(result)) is not None:
        found += f"; {percent(reused)} with the tiers"
    if not result.hits_known:
        found = "not known: the trace does not say what prompts share"
    offloading = next((item.value for item in result.assumptions if item.name == OFFLOADING), None)
    lines = [
        ("Requests", ", ".join(served)),
        ("Tokens", tokens),
        ("Time", f"{seconds(totals.makespan_s)} in {plural(totals.steps, 'step')}"),
        ("Throughput", speed),
        *([] if result.cost is None else [("Cost", cost_text(result.cost))]),
        ("KV pool", pool),
        ("Prefix hits", found),
        *([] if offloading is None else [("Offloading", plain(f"as vllm serve ... {offloading}"))]),
        ("Preemptions", f"{count(totals.preemptions)}, {count(totals.evicted_blocks)} blocks evicted"),
    ]
    if (time := result.step_time) is not None:
        lines.append(("At work", f"{percent(busy_share(result))} of the time: {parts_text(time)}"))
        lines.append(("Bound by", f"{bounds_text(time)}; uses {peaks_text(time)}"))
    if result.memory is not None:
        largest = sorted(result.memory.bill, key=lambda item: -item.bytes)[:3]
        parts = ", ".join(
            f"{plain(item.name, 24).replace('_', ' ')} {format_bytes(item.bytes)}" for item in largest
        )
        lines.append(("Memory", f"{format_bytes(result.memory.total_bytes)} a GPU: {parts}, ..."))
    return lines


def _advised(result: Result) -> list[tuple[str, str]]:
    """What limits it and what to try, without the commands: they are in the report."""
    found = advice(result)
    if found is None:
        return []
    lines = [("Limited by", f"{found.limit} {found.evidence}")]
    if found.replicas:
        lines.append(("Needed", found.replicas))
    if found.steps:
        lines.append(("To try", "; ".join(step.change for step in found.steps)))
    return lines


def _strategy(shown: Table, write: Write, width: int) -> Iterator[Text]:
    """A section: name and value in columns, the meaning beside them or, where that is too narrow, below."""
    yield write(shown.caption, "bold")
    zeros = [name for name, value, _ in shown.rows if _ZERO.fullmatch(value)]
    if len(zeros) < FEW_ZEROS:
        zeros = []
    rows = [row for row in shown.rows if row[0] not in zeros]
    name_width = min(30, max((len(name) for name, *_ in rows), default=0))
    value_width = min(18, max((len(value) for _, value, _ in rows), default=0))
    for name, value, meaning in rows:
        head = f"  {name:<{name_width}}  {value:>{value_width}}"
        if len(head) <= name_width + value_width + 4 <= width - 26:
            yield from _wrapped(f"{head}  ", meaning, write, width) if meaning else [write(head)]
            continue
        yield from _wrapped("  ", f"{name}  {value}", write, width)
        yield from _wrapped("      ", meaning, write, width)
    if zeros:
        yield from _wrapped("  Zero: ", ", ".join(map(_lowered, zeros)), write, width)
    if shown.left_off:
        yield write(f"  {plural(shown.left_off, 'more figure')} in the result")


def _lowered(name: str) -> str:
    """A name within a sentence; ``TTFT`` stays as it is."""
    return name if name[1:2].isupper() else name[:1].lower() + name[1:]


def _intervals(shown: Table, write: Write, width: int) -> RenderableType:
    from rich import box
    from rich.table import Table as Grid

    columns = zip(shown.columns, *shown.rows, strict=True)
    wide = sum(max(map(len, column)) + 2 for column in columns) - 2
    # Intervals from seconds to minutes fill a narrow terminal: columns move closer before a number breaks.
    padding = (0, 1 if wide <= width else 0, 0, 0)
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=padding)
    for index, name in enumerate(shown.columns):
        grid.add_column(write(name), justify="right" if index else "left", overflow="fold")
    for row in shown.rows:
        grid.add_row(*map(write, row))
    return grid


def _latency(result: Result, write: Write) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(("Latency", "Requests", "Mean", "p50", "p90", "p99", "Max")):
        table.add_column(write(name), justify="right" if index else "left", no_wrap=True)
    for field, (name, _) in LATENCIES.items():
        item = getattr(result.latency, field)
        if item is None:
            cells = ["0", *["–"] * 5]
        else:
            cells = [count(item.count), *map(seconds, (item.mean, item.p50, item.p90, item.p99, item.max))]
        table.add_row(write(name), *map(write, cells))
    return table
