"""Instants written as text, to whole ticks of 100 ns (the precision Azure publishes)."""

from __future__ import annotations

import re
from datetime import date

TICKS_PER_S = 10_000_000

_INSTANT = re.compile(
    r"\s*(\d{4}-\d\d-\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,12}))?\s*(Z|[+-]\d\d:?\d\d)?\s*\Z", re.ASCII
)


def dated(text: str) -> bool:
    """Whether a text has the form of an instant."""
    return _INSTANT.match(text) is not None


_PER_S = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


def unit_since_1970(number: float) -> str | None:
    """The unit in which a number is a time since 1970: of 1973 to 5138, each number is so in one at most."""
    return next((unit for unit, per_s in _PER_S.items() if 1e8 <= number / per_s < 1e11), None)


def per_second(unit: str) -> int:
    """How many of a unit are a second."""
    return _PER_S[unit]


def ticks_since_1970(number: float) -> tuple[str, int]:
    """The unit that a time since 1970 must be in by its magnitude, and the time in 100-ns ticks.

    Raises:
        ValueError: no such time in any unit.
    """
    unit = unit_since_1970(number)
    if unit is None:
        raise ValueError(number)
    per_s = _PER_S[unit]
    if isinstance(number, int):
        return unit, number * TICKS_PER_S // per_s
    return unit, round(number * (TICKS_PER_S / per_s))


MIXED_ZONES = "some times have a time zone and some have none: those without were taken for UTC"
"""What to note of a trace whose readers found both."""


class Instants:
    """Parses instants; remembers the days it has seen, because a trace has few.

    Attributes:
        zoned: whether the times that were parsed had a zone: both, where some had.
    """

    def __init__(self) -> None:
        self._days: dict[str, int] = {}
        self.zoned: set[bool] = set()

    def ticks(self, text: str) -> int:
        """100-ns ticks since year 1, in UTC where the text gives a zone, else as written.

        Raises:
            ValueError: not ``YYYY-MM-DD hh:mm:ss[.fraction][zone]``.
        """
        match = _INSTANT.match(text)
        if match is None:
            raise ValueError(text)
        day, hours, minutes, seconds, fraction, zone = match.groups()
        start = self._days.get(day)
        if start is None:
            if len(self._days) > 100_000:
                self._days.clear()
            start = self._days[day] = date.fromisoformat(day).toordinal() * 86_400
        h, m, s = int(hours), int(minutes), int(seconds)
        if h > 23 or m > 59 or s > 60:
            raise ValueError(text)
        ticks = (start + 3600 * h + 60 * m + s) * TICKS_PER_S
        if fraction:
            ticks += int(fraction[:7].ljust(7, "0"))
        self.zoned.add(zone is not None)
        if zone and zone != "Z":
            offset = int(zone[1:3]) * 60 + int(zone[-2:])
            ticks -= (offset if zone[0] == "+" else -offset) * 60 * TICKS_PER_S
        return ticks
