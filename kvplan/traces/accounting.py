"""What became of every row of a trace: nothing is dropped without being counted.

The law ``rows == requests + sum of dropped`` holds at every moment a reader yields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kvplan.errors import DataError

FIRST_LINES = 5
"""How many line numbers are kept for each reason."""

MAX_REASONS = 40
"""Reasons beyond this many are counted together, so that a hostile file cannot grow the report."""

MAX_NOTES = 40

BEYOND_LIMIT = "beyond the request limit"
NO_REQUESTS = (
    BEYOND_LIMIT,
    "not a model call",
    "sums up the spans below it",
    "span seen before",
    "belongs to the warm-up",
)
"""How reasons begin for which rows are dropped that are no requests of the traffic, or were not asked for."""
NO_TIME = 'neither "timestamp" nor a "delay" after an earlier turn of its session'


@dataclass(slots=True)
class Dropped:
    """Rows dropped for one reason: how many, and the numbers of the first few."""

    count: int = 0
    lines: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Accounting:
    """Counts kept while a trace is read.

    Attributes:
        name: what the trace is called in messages (usually its path).
        strict: refuse the first bad row instead of counting it.
        rows: data rows seen (request entries, for formats that hold several in one document).
        requests: rows that became requests.
        dropped: reason -> how many and where.
        resorted: requests that arrived earlier than one before them in the file.
        clamped_outputs: zero-token outputs raised to 1 because the caller asked for it.
        without_ids: requests whose prompt content the trace does not say.
        rate_used: whether the rate that was given stands in for times the trace does not have.
        block_size: tokens per block id, once the reader knows it.
        far_arrival_s: the first arrival that was too late to be one, in seconds as read.
        notes: remarks a reader of the result must know.
    """

    name: str
    strict: bool = False
    rows: int = 0
    requests: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    resorted: int = 0
    clamped_outputs: int = 0
    without_ids: int = 0
    rate_used: bool = False
    block_size: int | None = None
    far_arrival_s: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def dropped_rows(self) -> int:
        """Rows dropped, all reasons together."""
        return sum(entry.count for entry in self.dropped.values())

    def drop(self, reason: str, line: int, count: int = 1) -> None:
        """Count one dropped row (``count`` of them for a whole group).

        Raises:
            DataError: under ``strict``, naming the line.
        """
        if self.strict and reason != BEYOND_LIMIT:
            raise DataError(
                f"row cannot be used: {reason}",
                where=f"{self.name}:{line}",
                hint="mend the row, or read without --strict to drop and count such rows",
            )
        entry = self.dropped.get(reason)
        if entry is None:
            if len(self.dropped) >= MAX_REASONS:
                reason = "other reasons"
            entry = self.dropped.setdefault(reason, Dropped())
        entry.count += count
        if len(entry.lines) < FIRST_LINES:
            entry.lines.append(line)

    def note(self, text: str) -> None:
        """Add a remark once."""
        if text not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(text)

    def remarks(self) -> list[str]:
        """The notes together with what the counters say, as sentences."""
        found = list(self.notes)
        if self.resorted:
            found.append(f"arrivals re-sorted: {self.resorted:,} {_rows(self.resorted)}")
        if self.clamped_outputs:
            found.append(f"zero-token outputs raised to 1: {self.clamped_outputs:,}")
        if self.without_ids:
            if self.without_ids == self.requests:
                found.append("reuse unknown: the trace has no block ids")
            else:
                found.append(f"reuse unknown for {self.without_ids:,} requests without block ids")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rows": self.rows,
            "requests": self.requests,
            "dropped": {
                reason: {"count": entry.count, "first_lines": list(entry.lines)}
                for reason, entry in sorted(self.dropped.items())
            },
            "resorted": self.resorted,
            "notes": self.remarks(),
        }


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"
