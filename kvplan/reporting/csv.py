"""Tables as CSV (RFC 4180), for spreadsheets and scripts: raw values, none of them taken for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from kvplan.reporting.wording import setting_text

_FORMULA = re.compile(r"[=+@\t\r-](?!(?<=[+-])[\d.,]+ ?%?$)")
"""What a spreadsheet takes for a formula: a number with its sign is none."""

_WHOLE = 1 << 20
"""Characters of a setting: what is meant to be read back is not cut."""


def table_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """RFC 4180 text with ``\\n`` line ends."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in rows)
    return buffer.getvalue()


def _cell(value: object) -> object:
    """Nothing is an empty cell, lists and mappings are as a scenario file holds them."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return value
    text = value if isinstance(value, str) else setting_text(value, _WHOLE)
    return f"'{text}" if _FORMULA.match(text) else text
