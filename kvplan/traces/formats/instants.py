"""Instants written as text, to whole ticks of 100 ns (the precision Azure publishes)."""

from __future__ import annotations

import re
from datetime import date

TICKS_PER_S = 10_000_000

_INSTANT = re.compile(
    r"\s*(\d{4}-\d\d-\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,12}))?\s*(Z|[+-]\d\d:?\d\d)?\s*\Z", re.ASCII
)


class Instants:
    """Parses instants; remembers the days it has seen, because a trace has few."""

    def __init__(self) -> None:
        self._days: dict[str, int] = {}

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
        if zone and zone != "Z":
            offset = int(zone[1:3]) * 60 + int(zone[-2:])
            ticks -= (offset if zone[0] == "+" else -offset) * 60 * TICKS_PER_S
        return ticks
