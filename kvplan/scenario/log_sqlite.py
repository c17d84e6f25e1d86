"""Serving runs in an SQLite file, as evalscope's ``perf`` keeps them: a table with a row a request."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from kvplan.errors import DataError
from kvplan.scenario.log_columns import spelled_as_moments
from kvplan.traces.columns import plain_name

MAGIC = b"SQLite format 3\0"
_LONGEST = 256
"""Characters of a text from which it is what was asked or answered, and nothing that is read."""


def sqlite_requests(path: Path) -> list[dict[str, Any]]:
    """The rows of the one table that has a time of the first token, by column.

    Raises:
        DataError: the file is damaged, or no table of it holds requests, or several do.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as base:
            base.execute("PRAGMA trusted_schema = OFF")
            tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found = [table for table in tables if spelled_as_moments(_columns(base, table))]
            if len(found) != 1:
                what = f"tables {', '.join(found)} of it do" if found else "none of its tables does"
                raise DataError(
                    f"one table should hold requests with a time of the first token; {what}",
                    where=str(path), hint="export the requests of one run as CSV",
                )  # fmt: skip
            cursor = base.execute(f"SELECT * FROM {_quoted(found[0])}")
            names = [description[0] for description in cursor.description]
            return [{name: _short(value) for name, value in zip(names, row, strict=True)} for row in cursor]
    except sqlite3.Error as exc:
        raise DataError(f"SQLite cannot read the file: {exc}", where=str(path)) from exc


def _columns(base: sqlite3.Connection, table: str) -> list[str]:
    return [plain_name(row[1]) for row in base.execute(f"PRAGMA table_info({_quoted(table)})")]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _short(value: Any) -> Any:
    """What a cell says; nothing of long texts and of binary ones."""
    return "" if isinstance(value, bytes) or (isinstance(value, str) and len(value) > _LONGEST) else value
