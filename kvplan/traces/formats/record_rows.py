"""Rows of requests as names and cells: tables parted by anything, and JSON objects, nested ones too."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from kvplan.errors import DataError
from kvplan.traces.columns import PARTED, UNITS, delimiter_of, leaf_name, plain_name
from kvplan.traces.formats.contract import BROKEN
from kvplan.traces.formats.jsonl import HALF_WRITTEN, fault

MAX_LINES = 1_000
"""Lines over which a quoted cell may go on."""
MAX_DEPTH = 4
"""How deep names are looked for in nested objects."""


class Row(NamedTuple):
    """One row.

    Attributes:
        line: where it stands.
        cells: plain name to text or JSON value.
        fault: why it is none, instead.
        twice: names that nested objects have more than once, with other values.
    """

    line: int
    cells: dict[str, Any]
    fault: str = ""
    twice: tuple[str, ...] = ()


class Lines(Protocol):
    """What rows are read from."""

    name: str

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Line numbers and lines, without blank ones."""


class Rows:
    """The rows of a source.

    Attributes:
        parted: what parts the columns of a table; empty for JSON.
        names: plain name to the name as it is written, filled while rows are read.
        repeated: names that a table's header has twice.
    """

    def __init__(self, source: Lines) -> None:
        self.parted = ""
        self.names: dict[str, str] = {}
        self.repeated: set[str] = set()
        self._source = source

    def __iter__(self) -> Iterator[Row]:
        lines = self._source.lines()
        first = next(lines, None)
        if first is None:
            return
        if first[1].lstrip()[:1] == b"{":
            yield self._of_json(*first)
            for number, line in lines:
                yield self._of_json(number, line)
        else:
            yield from self._of_table(first, lines)

    def _of_json(self, number: int, line: bytes) -> Row:
        try:
            item = msgspec.json.decode(line)
        except BROKEN as error:
            return Row(number, {}, fault(error, line))
        if not isinstance(item, dict):
            return Row(number, {}, "not a JSON object")
        found: dict[str, Any] = {}
        twice: set[str] = set()
        flatten(item, found, twice, self.names)
        return Row(number, found, "", tuple(twice))

    def _of_table(self, first: tuple[int, bytes], lines: Iterator[tuple[int, bytes]]) -> Iterator[Row]:
        number, line = first
        text = line.decode("utf-8", "replace")
        mark = delimiter_of(text)
        self.parted = PARTED[mark]
        try:
            written = _cells(text, mark)
        except csv.Error as exc:
            raise DataError(
                f"the header is not CSV: {exc}", where=f"{self._source.name}:{number}",
                hint="a quoted name ends with its quote on the same line",
            ) from exc  # fmt: skip
        header = [leaf_name(name) for name in written]
        self.names.update(zip(header, written, strict=True))
        self.repeated = {name for name in header if header.count(name) > 1}
        for place, whole in _logical(lines):
            try:
                cells = _cells(whole.decode(), mark)
            except UnicodeDecodeError:
                yield Row(place, {}, "not UTF-8")
                continue
            except csv.Error:
                yield Row(place, {}, "not CSV")
                continue
            if len(cells) != len(header):
                cut = len(cells) < len(header) and not whole.endswith(b"\n")
                yield Row(place, {}, HALF_WRITTEN if cut else "wrong number of columns")
                continue
            row: dict[str, Any] = dict(zip(header, cells, strict=True))
            if b"{" in whole:
                found: dict[str, Any] = {}
                flatten(row, found, set(), self.names)
                row = found
            yield Row(place, row)


def flatten(
    item: dict[str, Any],
    found: dict[str, Any],
    twice: set[str],
    names: dict[str, str],
    depth: int = MAX_DEPTH,
) -> None:
    """Put what an object and those within it say into ``found``, the outer ones first.

    Objects that are written as text are looked through last, and only for what nothing else says: a prompt
    may be one, too.

    ``{"value": 5, "unit": "ms"}`` counts as 5 under a name that says so.
    """
    inner, written = [], []
    for key, value in item.items():
        name = leaf_name(key)
        if (texts := written_object(value)) is not None:
            written.append(texts)
            continue
        if isinstance(value, dict):
            if "value" not in value or isinstance(value["value"], (dict, list)):
                inner.append(value)
                continue
            unit = f"_{plain_name(str(value.get('unit', '')))}"
            name, value = name + (unit if unit in UNITS and unit != "_" else ""), value["value"]
        if value is None:
            continue
        names.setdefault(name, key)
        if found.setdefault(name, value) != value:
            twice.add(name)
    for value in inner if depth else ():
        flatten(value, found, twice, names, depth - 1)
    for value in written if depth else ():
        flatten(value, found, set(), names, depth - 1)


def written_object(value: object) -> dict[str, Any] | None:
    """The object that a text is in JSON; none of anything else."""
    if not isinstance(value, str) or value.lstrip()[:1] != "{":
        return None
    try:
        found = msgspec.json.decode(value)
    except BROKEN:
        return None
    return found if isinstance(found, dict) else None


def _logical(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Lines, those that a quoted cell spans as one; where a quote never ends, each line is one."""
    for number, line in lines:
        if line.count(b'"') % 2 == 0:
            yield number, line
            continue
        parts = [(number, line)]
        closed = False
        for more in lines:
            parts.append(more)
            if more[1].count(b'"') % 2:
                closed = True
                break
            if len(parts) >= MAX_LINES:
                break
        if closed:
            yield number, b"".join(part for _, part in parts)
        else:
            yield from parts


def _cells(text: str, mark: str) -> list[str]:
    text = text.rstrip("\r\n")
    if '"' in text:
        cells = next(csv.reader([text], delimiter=mark, strict=True, skipinitialspace=True), [])
        return [cell.strip() for cell in cells]
    return [cell.strip() for cell in text.split(mark)]
