"""Text that is not UTF-8, as spreadsheets write it: one byte a character.

Marks and numbers are the same in every such encoding, so Windows-1252 is taken for all of them; other letters
are only compared with each other.
"""

from __future__ import annotations

import re

SINGLE_BYTES = "the file is not UTF-8 and taken for Windows-1252"

_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1f]")
"""What no text has: of wide characters, compressed or packed content nothing is made up."""


def as_utf8(raw: bytes) -> bytes:
    """The same text in UTF-8: as it is where it is that (or no text), else taken for Windows-1252."""
    if raw.isascii():
        return raw
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw if _CONTROLS.search(raw) else raw.decode("cp1252", "replace").encode()
    return raw


class Recoding:
    """Lines of one file in UTF-8. Its first line beyond ASCII decides: after one in UTF-8 others are damaged.

    Attributes:
        lines: how many were taken for Windows-1252.
        first: number of the first of them.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.first = 0
        self._utf8: bool | None = None

    def line(self, number: int, line: bytes) -> bytes:
        """One line, counted if it is changed."""
        if self._utf8 or line.isascii():
            return line
        changed = as_utf8(line)
        if changed is not line:
            self.first = self.first or number
            self.lines += 1
        if self._utf8 is None:
            self._utf8 = changed is line
        return changed

    def said(self) -> str:
        """What was done, for a note; empty for nothing."""
        if not self.lines:
            return ""
        return f"{SINGLE_BYTES} ({self.lines:,} of its lines differ in it, the first is {self.first:,})"
