"""``kvplan report``: a saved result as a page, a Markdown file, CSV, JSON or a summary."""

import io
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvplan.cli.files import written
from kvplan.cli.output import answer, stdout_console, warn
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from typing_extensions import TypeIs

    from kvplan.reporting.loading import Report
    from kvplan.reporting.result import Result
    from kvplan.reporting.schema.plan import Plan
    from kvplan.reporting.schema.sweep import Sweep


class ReportFormat(StrEnum):
    """What to make of a result."""

    html = "html"
    md = "md"
    csv = "csv"
    json = "json"
    table = "table"


_SUFFIXES = {
    ".html": ReportFormat.html, ".htm": ReportFormat.html, ".md": ReportFormat.md,
    ".markdown": ReportFormat.md, ".csv": ReportFormat.csv, ".json": ReportFormat.json,
}  # fmt: skip

_PRINTED = (ReportFormat.csv, ReportFormat.json, ReportFormat.table)
"""Go to stdout unless a file is named; the others go into a file beside the result."""


def report(
    result: Annotated[
        str,
        typer.Argument(help="What kvplan simulate, sweep or plan wrote; - reads stdin.", metavar="RESULT"),
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Where to write; - is stdout. Its suffix chooses the format."),
    ] = None,
    format: Annotated[
        ReportFormat | None,
        typer.Option("--format", "-f", help="html (default), md, csv, json or table."),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option("--html", help="The page, as other commands write it: -o PAGE --format html."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Render a saved result, sweep or plan: one self-contained HTML page, Markdown, CSV or a summary.

    Without -o, HTML and Markdown are written beside the result; the rest goes to stdout.
    """
    from kvplan.cli.files import check_outputs
    from kvplan.reporting.loading import load_report

    if html is not None:
        if output is not None or format not in (None, ReportFormat.html):
            raise UsageError("--html is -o with --format html", hint="give --html alone, or -o and --format")
        output, format = html, ReportFormat.html
    kind = _kind(output, format)
    target = _target(result, output, kind)
    if open_page and (kind is not ReportFormat.html or target is None):
        raise UsageError("--open needs an HTML page in a file", hint="leave out -o -, or add -o report.html")
    if target is not None:
        check_outputs({"-o": str(target)}, {})
    loaded = load_report(result)
    if target is None:
        _print(loaded, kind)
        return
    write_report(loaded, target, kind)
    if open_page:
        import webbrowser

        if not webbrowser.open(target.resolve().as_uri()):
            warn(f"no browser could be started; open {target} yourself")


def write_report(result: "Report", path: Path, kind: ReportFormat = ReportFormat.html) -> None:
    """Write a report file (and a Markdown report's drawings beside it), saying so on stderr.

    Raises:
        OSError: a file cannot be written.
    """
    if kind is ReportFormat.md and _is_result(result):
        from kvplan.reporting.markdown import markdown_pictures

        for name, picture in markdown_pictures(result, path.stem).items():
            _write(path.with_name(name), picture)
    write_page(path, _text(result, kind, pictures=path.stem))
    if kind in (ReportFormat.html, ReportFormat.md) and _is_result(result):
        _say_downsampled(result)


def write_html(result: "Report", html: str | None) -> None:
    """What ``--html`` asks for: the page in a file, which stderr names, or on stdout for ``-``.

    Raises:
        OSError: the file cannot be written.
    """
    if html == "-":
        sys.stdout.write(_text(result, ReportFormat.html, pictures=None))
    elif html is not None:
        write_report(result, Path(html))


def write_page(path: Path, text: str) -> None:
    """Write one file, saying so on stderr.

    Raises:
        OSError: it cannot be written.
    """
    _write(path, text)
    size = len(text.encode())
    shown = f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
    sys.stderr.write(f"wrote {path} ({shown})\n")


def _is_result(document: "Report") -> "TypeIs[Result]":
    from kvplan.reporting.result import Result

    return isinstance(document, Result)


def _say_downsampled(result: "Result") -> None:
    from kvplan.reporting.series import MAX_POINTS, downsampled

    rows = downsampled(result)
    if rows:
        warn(f"charts show at most {MAX_POINTS} of {rows} samples a line, extremes kept")


def _kind(output: str | None, format: ReportFormat | None) -> ReportFormat:
    if format is not None:
        return format
    if output in (None, "-"):
        return ReportFormat.html
    suffix = Path(str(output)).suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(
            f"cannot tell the format of {output!r}",
            hint="end it in .html, .md, .csv or .json, or say --format",
        )
    return _SUFFIXES[suffix]


def _target(source: str, output: str | None, kind: ReportFormat) -> Path | None:
    """The file to write; ``None`` is stdout."""
    if output == "-" or (output is None and kind in _PRINTED):
        return None
    if output is None and source == "-":
        raise UsageError(
            "a result from stdin has no place to write beside", hint="say -o report.html or -o -"
        )
    target = Path(output) if output is not None else Path(source).with_suffix(f".{kind}")
    if source != "-" and target.resolve() == Path(source).resolve():
        raise UsageError(f"{target} is the result itself and would be overwritten", hint="name another file")
    return target


def _print(result: "Report", kind: ReportFormat) -> None:
    if kind is ReportFormat.table:
        _print_table(result, stdout_console())
        return
    answer(_text(result, kind, pictures=None))
    if kind is ReportFormat.html and _is_result(result):
        _say_downsampled(result)


def _print_table(result: "Report", console: "Console") -> None:
    from kvplan.reporting.schema.plan import Plan

    if _is_result(result):
        from kvplan.reporting.console import summary_table

        console.print(summary_table(result))
    elif isinstance(result, Plan):
        from kvplan.cli.printed_plan import print_plan

        print_plan(result, console)
    else:
        from kvplan.cli.printed_sweep import print_sweep

        print_sweep(result, console)


def _text(result: "Report", kind: ReportFormat, *, pictures: str | None) -> str:
    from kvplan.reporting.schema.plan import Plan

    if kind is ReportFormat.table:
        return _table_text(result)
    if _is_result(result):
        return _result_text(result, kind, pictures)
    if kind is ReportFormat.json:
        return json.dumps(result.document(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return _plan_text(result, kind) if isinstance(result, Plan) else _sweep_text(result, kind)


def _result_text(result: "Result", kind: ReportFormat, pictures: str | None) -> str:
    if kind is ReportFormat.html:
        from kvplan.reporting.html import render_html

        return render_html(result)
    if kind is ReportFormat.md:
        from kvplan.reporting.markdown import render_markdown

        return render_markdown(result, pictures=pictures)
    if kind is ReportFormat.csv:
        from kvplan.reporting.result_csv import result_csv

        return result_csv(result)
    from kvplan.reporting.result import result_json

    return result_json(result) + "\n"


def _sweep_text(sweep: "Sweep", kind: ReportFormat) -> str:
    from kvplan.reporting.sweep import sweep_csv
    from kvplan.reporting.sweep_page import render_sweep
    from kvplan.reporting.sweep_text import sweep_markdown

    if kind is ReportFormat.html:
        return render_sweep(sweep)
    return sweep_markdown(sweep) if kind is ReportFormat.md else sweep_csv(sweep.document())


def _plan_text(plan: "Plan", kind: ReportFormat) -> str:
    from kvplan.reporting.plan import plan_csv, plan_markdown
    from kvplan.reporting.plan_page import render_plan

    if kind is ReportFormat.html:
        return render_plan(plan)
    return plan_markdown(plan) if kind is ReportFormat.md else plan_csv(plan)


def _table_text(result: "Report") -> str:
    from rich.console import Console

    from kvplan.cli.output import PLAIN_WIDTH

    buffer = io.StringIO()
    console = Console(file=buffer, width=PLAIN_WIDTH, color_system=None, highlight=False, emoji=False)
    _print_table(result, console)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def _write(path: Path, text: str) -> None:
    with written(path) as stream:
        stream.write(text)
