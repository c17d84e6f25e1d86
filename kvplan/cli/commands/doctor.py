"""``kvplan doctor``: what this machine can run, and why not."""

from typing import Annotated, Any

import typer

from kvplan.cli.options import FormatOption, OutputFormat
from kvplan.cli.output import answer_rows, print_json, stdout_console

COLUMNS = ("format", "torch", "GPU", "bytes/token/layer", "stored as")


def doctor(
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="WHAT",
            help="Exit with code 4 unless WHAT is here: torch, triton, gpu, or a KV format. Repeatable.",
        ),
    ] = None,
    format: FormatOption = OutputFormat.table,
) -> None:
    """What this machine can run: torch, triton, GPUs and KV formats, and why not."""
    from kvplan.kernels import doctor as kernels

    findings = kernels.examine()
    if format is OutputFormat.json:
        print_json(findings)
    elif format is OutputFormat.table:
        _print_table(findings)
    else:
        answer_rows(format, COLUMNS, _rows(findings, raw=format is OutputFormat.csv))
    for wanted in require or ():
        kernels.require(findings, wanted)


def _rows(findings: dict[str, Any], *, raw: bool = False) -> list[list[Any]]:
    """A format in each; ``raw``: values for scripts."""
    names = ("name", "reference", "triton", "bytes_per_token_layer", "summary")
    rows = [[found[name] for name in names] for found in findings["formats"]]
    return rows if raw else [[_shown(value) for value in row] for row in rows]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,.0f}"


def _print_table(findings: dict[str, Any]) -> None:
    from rich.table import Table

    console = stdout_console()
    console.print(f"kvplan {findings['kvplan']} · Python {findings['python']} · {findings['system']}")
    for name in ("torch", "triton"):
        console.print(f"{name:10s} {findings[name]['version'] or 'missing'}")
    if not findings["gpus"]:
        console.print("GPU        none")
    for gpu in findings["gpus"]:
        tested = "" if gpu["compiled_in_tests"] else " (architecture not compiled in our tests)"
        capability = f"{gpu['capability'] // 10}.{gpu['capability'] % 10}"
        console.print(f"GPU {gpu['index']:<6} {gpu['name']}, compute capability {capability}{tested}")
    console.print()
    for backend in findings["backends"]:
        verdict = "runs" if backend["runs"] else f"does not run: {backend['why_not']}"
        console.print(f"{backend['name']:10s} {verdict}", soft_wrap=False)
    console.print()
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="right" if "bytes" in name else "left", overflow="fold")
    for row in _rows(findings):
        table.add_row(*row)
    console.print(table)
    console.print("\nBytes are those of one token of one layer with 8 KV heads of 128 (MLA: its own shape).")
