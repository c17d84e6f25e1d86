"""``kvplan audit``: hold a saved result against the reference engine and against its own laws."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvplan.cli.options import FormatOption, OutputFormat
from kvplan.errors import KvplanError

if TYPE_CHECKING:
    from kvplan.scenario.audit import Audit, Divergence

SCHEMA = "kvplan.audit/1"

_SHOWN = 62
"""Characters of a decision line in a table of 80 columns; a longer one is shown around the difference."""


def audit(
    result: Annotated[
        str, typer.Argument(help="A result of kvplan simulate; - reads stdin.", metavar="RESULT")
    ],
    sample: Annotated[
        int, typer.Option("--sample", "-n", min=1, help="Play so many requests, from the first.")
    ] = 200,
    format: FormatOption = OutputFormat.table,
) -> None:
    """Play a sample of a result again, block by block, and compare it with the fast engine.

    Also checks that the result's inputs are unchanged and its numbers
    consistent. Exit code 1 means that something differs.
    """
    from kvplan.reporting.loading import load_result
    from kvplan.scenario.audit import audit_result

    loaded = load_result(result)
    where = "<stdin>" if result == "-" else result
    found = audit_result(loaded.model_dump(mode="json", by_alias=True), sample, where=where)
    _print(found, where, sample, format)
    if not found.passed:
        raise KvplanError(
            _verdict(found), where=where, hint="please report the result file to kvplan's authors"
        )


def _verdict(found: "Audit") -> str:
    if found.divergence is not None:
        return f"the engines differ at {_place(found.divergence)}"
    broken = [check.name for check in found.checks if not check.passed]
    if broken:
        return f"laws broken: {'; '.join(broken)}"
    return f"equal: {found.requests:,} requests, {found.steps:,} decisions"


def _place(divergence: "Divergence") -> str:
    words = {"decision": "step", "request": "request number", "totals": "the totals after step"}
    return f"{words[divergence.kind]} {divergence.step:,}"


def _print(found: "Audit", where: str, sample: int, format: OutputFormat) -> None:
    from kvplan.cli.output import answer_rows, print_json

    if format is OutputFormat.json:
        print_json(_document(found, where, sample))
        return
    if format is OutputFormat.table:
        _table(found, where)
        return
    equal = found.divergence is None
    rows: list[tuple[str, object, str]] = [("fast engine equals the reference", equal, _difference(found))]
    rows += [(check.name, check.passed, check.detail) for check in found.checks]
    if format is not OutputFormat.csv:
        rows = [(name, _yes(bool(passed)), detail) for name, passed, detail in rows]
    answer_rows(format, ("check", "passed", "detail"), rows)


def _difference(found: "Audit") -> str:
    if found.divergence is None:
        return f"{found.requests} requests, {found.steps} decisions"
    return f"{_place(found.divergence)}: {found.divergence.fast} / {found.divergence.reference}"


def _yes(passed: bool) -> str:
    return "yes" if passed else "no"


def _document(found: "Audit", where: str, sample: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "result": where,
        "sample": sample,
        "requests": found.requests,
        "steps": found.steps,
        "passed": found.passed,
        "divergence": None if found.divergence is None else asdict(found.divergence),
        "checks": [asdict(check) for check in found.checks],
        "notes": list(found.notes),
    }


def _table(found: "Audit", where: str) -> None:
    import textwrap

    from rich.text import Text

    from kvplan.cli.output import stdout_console

    console = stdout_console()

    def say(text: str, head: str = "", style: str = "") -> None:
        """Lines that hang after ``head``, without padding at their ends."""
        for line in textwrap.wrap(text, max(20, console.width - len(head)), break_on_hyphens=False):
            console.print(Text(head + line, style=style))
            head = " " * len(head)

    say(f"Audit of {where}", style="bold")
    say(_verdict(found), style="green" if found.passed else "red")
    if found.divergence is not None:
        fast, reference = _around_difference(found.divergence.fast, found.divergence.reference)
        say(fast, "  fast       ")
        say(reference, "  reference  ")
    for check in found.checks:
        text = check.name if check.passed else f"{check.name}: {check.detail}"
        say(text, "  ok  " if check.passed else "  no  ")
    for note in found.notes:
        say(note, "note: ", style="dim")


def _around_difference(fast: str | None, reference: str | None) -> tuple[str, str]:
    """Both lines, cut to the part where they differ when they are long."""
    ours, theirs = fast or "(ended before)", reference or "(ended before)"
    if max(len(ours), len(theirs)) <= _SHOWN:
        return ours, theirs
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same] == theirs[same]:
        same += 1
    start = max(0, same - _SHOWN // 3)
    return _cut(ours, start), _cut(theirs, start)


def _cut(line: str, start: int) -> str:
    room = _SHOWN - 6
    return ("..." if start else "") + line[start : start + room] + ("..." if len(line) > start + room else "")
