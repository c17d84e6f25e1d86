"""Printing: answers on stdout, everything else on stderr.

``table`` output is for people: rich tables on a terminal, the same text without colour elsewhere, never
wider than 80 columns unless the terminal is, and not cut where the terminal is narrower. ``json`` is one
object; ``csv`` and ``md`` are one table.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kvplan.cli.options import OutputFormat

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 80

_CONTROLS = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(32), *range(127, 160), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}
"""Characters that steer a terminal or turn the direction of text, as escapes."""


def visible(text: str) -> str:
    """Text whose control characters are shown, not obeyed: names and lines come from other people's files."""
    return text.translate(_CONTROLS)


def answer(text: str) -> None:
    """Write text to stdout, with exactly one newline at its end and no control characters."""
    sys.stdout.write(visible(text).rstrip("\n") + "\n")


def write_document(document: Mapping[str, Any], output: str | None) -> None:
    """What ``-o`` asks for: the document in a file, which stderr names, or on stdout for ``-``.

    Raises:
        OSError: the file cannot be written.
    """
    from kvplan.cli.files import written

    if output == "-":
        print_json(document)
    elif output is not None:
        with written(output) as stream:
            stream.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stderr.write(f"wrote {output}{'' if document['complete'] else ' (incomplete)'}\n")


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON object, keys in the order given, raw numbers; NaN and infinities are refused."""
    answer(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A GitHub-flavoured Markdown table; numbers are right-aligned, pipes escaped."""
    body = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    numeric = [
        bool(body) and all(_looks_numeric(row[index]) for row in body) for index in range(len(columns))
    ]
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join(" ---: " if right else " --- " for right in numeric) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    return "\n".join(lines) + "\n"


def answer_rows(
    form: OutputFormat, columns: Sequence[str], rows: Iterable[Sequence[object]], most: int | None = None
) -> None:
    """One table on stdout: as CSV, or as Markdown with the first ``most`` columns."""
    if form is OutputFormat.csv:
        from kvplan.reporting.csv import table_csv

        answer(table_csv(columns, rows))
    else:
        answer(markdown_table(columns[:most], [row[:most] for row in rows]))


def flat_rows(document: Mapping[str, Any]) -> list[tuple[str, object]]:
    """A document as dotted paths with their values, lists of them in one cell."""
    return list(_flat("", document))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list):
        yield prefix, "; ".join(str(item) for item in value)
    else:
        yield prefix, "" if value is None else value


def _looks_numeric(cell: str) -> bool:
    return cell == "" or cell.lstrip("-+~")[:1].isdigit()


def stdout_console() -> Console:
    """A rich console for the answer: as wide as the terminal, 80 columns where there is none."""
    from rich.console import Console

    return _console(Console, stderr=False)


def stderr_console() -> Console:
    """A rich console for progress, warnings and errors."""
    from rich.console import Console

    return _console(Console, stderr=True)


def _console(kind: type[Console], *, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout

    class Plain(kind):  # type: ignore[misc,valid-type]
        """Prints lines without blanks at their ends, and text as it is: brackets are no markup.

        Signs that the stream does not have become others.
        """

        def print(self, *objects: Any, **options: Any) -> None:
            with self.capture() as taken:
                super().print(*objects, **options)
            text = taken.get()
            if not self.encoding.startswith("utf"):
                from kvplan.reporting.console import in_ascii

                text = in_ascii(text)
            self.file.write(_ENDS.sub("\n", text))

    return Plain(
        stderr=stderr, width=_columns(stream), highlight=False, emoji=False, markup=False, soft_wrap=False,
        color_system="auto" if wants_colour() else None,
    )  # fmt: skip


def wants_colour() -> bool:
    """Whether nobody asked for text alone (https://no-color.org): bold and dim go with the colours."""
    return not os.environ.get("NO_COLOR")


def redraws(stream: Any) -> bool:
    """Whether a line on this stream can be written over: a terminal, and one that obeys control sequences."""
    return bool(stream.isatty()) and os.environ.get("TERM", "").casefold() not in ("dumb", "unknown")


_ENDS = re.compile(r" +\n")


def _columns(stream: Any) -> int:
    """Columns to fill: what ``COLUMNS`` or the terminal has, and never so few that a figure would be cut."""
    said = os.environ.get("COLUMNS", "")
    width = int(said) if said.isascii() and said.isdecimal() and len(said) < 6 else 0
    if not width and stream.isatty():
        with suppress(OSError):
            width = os.get_terminal_size(stream.fileno()).columns
    return max(width, PLAIN_WIDTH)


def warn(message: str) -> None:
    """One warning line on stderr."""
    sys.stderr.write(f"warning: {visible(message)}\n")
