"""CSV tables with a header: columns found by name, every line accounted for."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence

from kvplan.errors import DataError
from kvplan.traces.accounting import Accounting
from kvplan.traces.source import Source

_COUNT = re.compile(r"[+-]?\d{1,18}(\.\d{0,18})?([eE][+-]?\d{1,2})?\Z", re.ASCII)
_MOST = 10**18


MOST_NAMED = 4
"""Names in a note."""
MAX_NAME = 40
"""Characters of each of their names."""


def named(names: Sequence[str]) -> str:
    """The first few of names from a file: ``'user', 'ttft' and 12 more``; empty for none."""
    shown = ", ".join(repr(name[:MAX_NAME]) for name in names[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown


class Table:
    """Rows of a CSV file as lists of fields, in the order of ``columns``.

    Args:
        columns: names wanted, in lower case; one starting with ``?`` may be absent (its field is then '').

    Raises:
        DataError: the file has no header with all of the names.
    """

    def __init__(self, source: Source, accounting: Accounting, columns: list[str]) -> None:
        self._lines = source.lines()
        self._accounting = accounting
        self._name = source.name
        first = next(self._lines, None)
        if first is None:
            raise DataError("the trace is empty", where=source.name)
        try:
            names = _fields(first[1].decode("utf-8", "replace"))
        except csv.Error as exc:
            raise DataError(
                f"the header is not CSV: {exc}",
                where=f"{source.name}:{first[0]}",
                hint="a quoted name ends with its quote on the same line",
            ) from exc
        header = [name.strip().lower() for name in names]
        missing = [name for name in columns if not name.startswith("?") and name not in header]
        if missing:
            raise DataError(
                f"no column {', '.join(map(repr, missing))}",
                where=f"{source.name}:{first[0]}",
                hint=f"the columns are {', '.join(header[:12])}",
            )
        plain = [name.removeprefix("?") for name in columns]
        repeated = [name for name in dict.fromkeys(header) if name in plain and header.count(name) > 1]
        if repeated:
            raise DataError(
                f"{len(repeated)} columns are there more than once: {', '.join(map(repr, repeated[:3]))}"
                if len(repeated) > 1
                else f"the column {repeated[0]!r} is there {header.count(repeated[0])} times",
                where=f"{source.name}:{first[0]}",
                hint="keep the one that is meant, or rename the others",
            )
        self.columns = header
        self._width = len(header)
        self._wanted = [header.index(name) if name in header else -1 for name in plain]

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        accounting, width, wanted = self._accounting, self._width, self._wanted
        for number, line in self._lines:
            accounting.rows += 1
            try:
                fields = _fields(line.decode())
            except UnicodeDecodeError:
                accounting.drop("not UTF-8", number)
                continue
            except csv.Error:
                accounting.drop("not CSV", number)
                continue
            if len(fields) != width:
                cut = len(fields) < width and not line.endswith(b"\n")
                accounting.drop("half-written last line" if cut else "wrong number of columns", number)
                continue
            yield number, [fields[i] if i >= 0 else "" for i in wanted]


def _fields(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    if '"' in line:
        return next(csv.reader([line], strict=True), [])
    return line.split(",")


def parse_count(text: str) -> int:
    """A whole number of tokens, ``374``, ``374.0`` or ``3.74e2``.

    Raises:
        ValueError: anything else, also numbers of 19 digits and more.
    """
    if text.isdecimal() and len(text) < 19 and text.isascii():
        return int(text)
    text = text.strip()
    match = _COUNT.match(text)
    if not match:
        raise ValueError(text)
    whole, _, rest = text.partition(".")
    if not match[2] and not rest.strip("0"):  # as pandas writes a column with gaps
        return int(whole)
    from decimal import Decimal  # slow to import, and seldom wanted

    found = Decimal(text)
    if found != int(found) or abs(found) >= _MOST:
        raise ValueError(text)
    return int(found)


def parse_number(text: str) -> float:
    """A number as tables write it. Python alone would also read ``1_000`` and digits of other scripts.

    Raises:
        ValueError: not a number.
    """
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)
