"""Numbers as spreadsheets write them: which mark is the decimal point, and which parts thousands.

Token counts are whole, so what parts groups of three digits in them parts thousands; a comma before any other
number of digits is a decimal point. Where neither shows, nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from kvplan.errors import DataError

_SPACED = re.compile("(?<=\\d)[ \u00a0\u202f'](?=\\d{3}(?!\\d))")
"""Marks between thousands that are nothing else in a number."""
_WITH_COMMA = re.compile(r"[+-]?\d[\d.,]*,\d[\d.,]*\Z", re.ASCII)
_COMMA_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?\Z", re.ASCII)
_COMMA_POINT = re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(\.\d{3})+),\d+\Z", re.ASCII)
_DOT_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+\Z", re.ASCII)
_NO_FRACTION = re.compile(r"\d+[.,]0+\Z", re.ASCII)


class Numerals(NamedTuple):
    """How a table writes numbers: with this decimal point, and this mark between thousands (or none)."""

    point: str = "."
    group: str = ""

    def plain(self, text: str) -> str:
        """A number as Python reads it."""
        text = _SPACED.sub("", text.strip())
        if self.group:
            text = text.replace(self.group, "")
        return text if self.point == "." else text.replace(self.point, ".")

    def said(self) -> str:
        """What is unusual about it, for a note."""
        if self.point == ",":
            return "commas as decimal points"
        return "commas between thousands" if self.group == "," else ""


def numerals_of(counts: Iterable[str], times: Iterable[str], where: str) -> Numerals:
    """How the cells of whole numbers and those of times are written.

    Raises:
        DataError: commas that may be either, or are both.
    """
    counts = [_SPACED.sub("", cell.strip()) for cell in counts]
    commas = [cell for cell in counts if _WITH_COMMA.match(cell)]
    groups = [cell for cell in commas if _COMMA_GROUPS.match(cell) and not _NO_FRACTION.match(cell)]
    # A fraction of a token does not exist: 1.234 of them are thousands.
    dotted = [cell for cell in counts if _DOT_GROUPS.match(cell) and not _NO_FRACTION.match(cell)]
    points = [cell for cell in commas if cell not in groups and _COMMA_POINT.match(cell)]
    times = [_SPACED.sub("", cell.strip()) for cell in times]
    open_ones = []
    for cell in (cell for cell in times if _WITH_COMMA.match(cell)):
        grouped, pointed = _COMMA_GROUPS.match(cell), _COMMA_POINT.match(cell)
        if grouped and pointed:
            open_ones.append(cell)
        elif grouped:
            groups.append(cell)
        elif pointed:
            points.append(cell)
    if groups and (points or dotted):
        raise DataError(
            f"commas are decimal points in {(points or dotted)[0]!r} and part thousands in {groups[0]!r}",
            where=where, hint="write numbers with decimal points and nothing between thousands",
        )  # fmt: skip
    if points or dotted:
        return Numerals(",", ".")
    if groups:
        return Numerals(".", ",")
    if open_ones:
        raise DataError(
            f"the comma in the time {open_ones[0]!r} may be a decimal point or part thousands",
            where=where, hint="write times with decimal points and nothing between thousands",
        )  # fmt: skip
    return Numerals()
