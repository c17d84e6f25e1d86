"""In which unit a column has its times: as its name says, or where the numbers leave no doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvplan.errors import DataError
from kvplan.traces.columns import Column
from kvplan.traces.dates import AmbiguousDates, Dates
from kvplan.traces.formats.instants import TICKS_PER_S, Instants, per_second, unit_since_1970
from kvplan.traces.settings import setting

_DATES_S = 9e8, 4.2e9
"""1998 to 2103: moments beyond are no dates."""
SECONDS, SECONDS_WHOLE = 0.1, 1.0
"""Requests in a unit of time above which it is a second, where times have fractions and where they are whole:
a millisecond would make a hundred requests a second, or a thousand, which no published trace has."""
MILLISECONDS = 1e-4, 1e-3
"""Requests in a unit of time between which it is a millisecond: a second would make less than four an hour,
and a microsecond a hundred a second."""
_SECONDS = frozenset(("arrived_at", "arrival_timestamp"))
"""Names of tools (vidur, splitwise-sim) whose files have seconds there."""
_NAMES = {1.0: "seconds", 1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}


class Clock:
    """Arrivals of rows as seconds from the first one.

    Attributes:
        said: how the column is read, for a note.
    """

    def __init__(self, column: Column, cells: Sequence[Any], numbers: Sequence[float | int], scale: float,
                 written: str, where: str, *, mooncake: bool = False) -> None:  # fmt: skip
        """
        Args:
            cells: texts that are no numbers, of the first rows.
            numbers: the others.
            mooncake: the other columns are Mooncake's, whose times are in milliseconds.
            scale: factor on times that the user gave; then numbers without a unit are in seconds.
            written: the column's name in messages.

        Raises:
            DataError: cells are neither numbers nor dates, or both, or the unit cannot be told.
        """
        self._instants = Instants()
        self._origin: float | int | None = None
        self.dated = bool(cells) and not numbers
        self._unit = 1.0
        if cells and numbers and len(cells) > len(numbers):
            numbers = ()
            self.dated = True
        if self.dated:
            try:
                self._dates = Dates(cell for cell in cells if isinstance(cell, str))
            except AmbiguousDates:
                raise DataError(
                    f"{written} has dates like {str(cells[0])[:40]!r}, of which either number may be the day",
                    where=where, hint="write them as ISO 8601: 2024-05-10 13:00:00",
                ) from None  # fmt: skip
            self._check_dated(cells, written, where)
            self.said = "as dates"
            return
        if mooncake and column.name == "timestamp":
            self._unit, why = 1e-3, ", as Mooncake writes them"
        else:
            self._unit, why = _unit(column, numbers, scale, written, where)
        self.said = f"in {_NAMES[self._unit]}{why}"

    def seconds(self, cell: Any, number: float | int | None) -> float:
        """Seconds since the first row's time; ``number`` is the cell as a number, None where it is none.

        Raises:
            ValueError: not a time like those of the first rows.
        """
        if self.dated:
            if not isinstance(cell, str):
                raise ValueError(cell)
            ticks = self._ticks(cell)
            if self._origin is None:
                self._origin = ticks
            return (ticks - self._origin) / TICKS_PER_S
        if number is None or not abs(number) < 1e19:
            raise ValueError(cell)
        if self._origin is None:
            self._origin = number
        passed = number - self._origin
        return passed / round(1.0 / self._unit)

    @property
    def mixed_zones(self) -> bool:
        """Whether some of the dates had a time zone, and some had none."""
        return self.dated and len(self._instants.zoned | self._dates.zoned) > 1

    def _ticks(self, text: str) -> int:
        try:
            return self._instants.ticks(text)
        except ValueError:
            return self._dates.ticks(text)

    def _check_dated(self, cells: Sequence[Any], written: str, where: str) -> None:
        for cell in cells:
            try:
                self._ticks(cell if isinstance(cell, str) else "")
                return
            except ValueError:
                continue
        raise DataError(
            f"{written} is {str(cells[0])[:40]!r}, neither a number nor a date like 2024-05-10 13:00:00",
            where=where, hint="write the times as ISO 8601, or as seconds since the first",
        )  # fmt: skip


def _unit(
    column: Column, numbers: Sequence[float | int], scale: float, written: str, where: str
) -> tuple[float, str]:
    """(seconds that 1 stands for, how that is known)."""
    least = min(numbers, default=0.0)
    epoch = unit_since_1970(least)
    if epoch is not None and not _DATES_S[0] <= least / per_second(epoch) <= _DATES_S[1]:
        epoch = None
    if column.name.endswith("_nano"):
        return 1e-9, ", as its name says"
    if column.labelled:
        since = None if epoch is None else 1.0 / per_second(epoch)
        if since is not None and since < column.unit:
            raise DataError(
                f"{written} says {_NAMES[column.unit]}, and its numbers are {epoch} since 1970", where=where,
                hint="rename the column",
            )  # fmt: skip
        return column.unit, ", as its name says"
    if scale != 1.0:
        return 1.0, f" before the time scale of {scale:g}"
    if epoch is not None:
        return 1.0 / per_second(epoch), " since 1970"
    if column.name in _SECONDS:
        return 1.0, ", as vidur and splitwise-sim write them"
    span = max(numbers, default=0.0) - least
    if not span:
        return 1.0, ""
    per_unit = len(numbers) / span
    whole = all(float(number).is_integer() for number in numbers)
    if per_unit >= (SECONDS_WHOLE if whole else SECONDS):
        return 1.0, f": milliseconds would make {per_unit * 1000:,.0f} requests/s"
    if MILLISECONDS[0] <= per_unit < MILLISECONDS[1]:
        return 1e-3, f": {per_unit * 1000:.2g} requests/s; seconds would make {per_unit * 3600:.2g} an hour"
    as_s, as_ms = f"{per_unit:.2g}/s in seconds", f"{per_unit * 1000:.3g}/s in milliseconds"
    raise DataError(
        f"the unit of {written} cannot be told: {as_s}, {as_ms}", where=where,
        hint=f"rename it to {column.name}_s or {column.name}_ms, or, of milliseconds, give a time scale: "
        f"{setting('time_scale', 0.001)}; a rate draws times instead (--rate)",
    )  # fmt: skip
