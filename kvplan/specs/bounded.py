"""Text from outside: files and standard input, of bounded size and UTF-8 (or what PowerShell redirects)."""

from __future__ import annotations

import sys
from pathlib import Path

from kvplan.errors import SpecError

STDIN = "<stdin>"


def read_bounded(path: Path, limit: int, what: str) -> str:
    """The text of a file no larger than ``limit`` bytes, UTF-8.

    Raises:
        SpecError: a directory, too large, or not text. OSError when it cannot be opened.
    """
    if path.is_dir():
        raise SpecError(f"expected {what}, found a directory", where=str(path))
    with open(path, "rb") as handle:
        raw = handle.read(limit + 1)
    return _text(raw, str(path), limit, what)


def read_standard_input(limit: int, what: str) -> str:
    """Standard input under the same rules, called ``<stdin>`` in errors."""
    return _text(sys.stdin.buffer.read(limit + 1), STDIN, limit, what)


def _text(raw: bytes, where: str, limit: int, what: str) -> str:
    if len(raw) > limit:
        raise SpecError(
            f"{what} is larger than the limit of {limit:,} bytes",
            where=where,
            hint="this does not look like a configuration; is it the weights or an index?",
        )
    try:
        # PowerShell redirects as UTF-16.
        return raw.decode("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SpecError(f"not UTF-8 text: {exc.reason} at byte {exc.start}", where=where) from exc
