"""Dates as spreadsheets, log viewers and mail write them, beside ISO 8601: when each is, from one beginning.

``11/20/2026 10:00:00 AM``, ``20.11.2026 10:00``, ``20/Nov/2026:10:00:00 +0000``, ``Nov 20, 2026 @ 10:00:00``.
Whether a day or a month comes first is settled by dates that can be only one of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime

from kvplan.traces.formats.instants import TICKS_PER_S

TICKS_TO_1970 = date(1970, 1, 1).toordinal() * 86_400 * TICKS_PER_S

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,12}))?)?"
    r"\s{0,2}(?P<half>[AaPp])?(?(half)\.?[Mm]\.?)\s{0,2}(?P<zone>Z|UTC|GMT|(?:UTC|GMT)?[+-]\d\d:?\d\d)?"
    r"\]?\s*(?:\([\w .]{1,60}\))?\s*\Z"
)
_BETWEEN = r"(?:,? @ |, ?|[ T:])\s{0,2}"
_NUMBERED = re.compile(
    r"\s*\[?(?P<one>\d{1,4})(?P<mark>[/.-])(?P<two>\d{1,2})(?P=mark)(?P<three>\d{2,4})" + _BETWEEN + _CLOCK
)
_NAMED = re.compile(
    r"\s*\[?(?:[A-Za-z]{3,9},? )?(?:(?P<day>\d{1,2})[/ -](?P<month>[A-Za-z]{3,9})[/ -]"
    r"|(?P<named>[A-Za-z]{3,9}) (?P<dayth>\d{1,2}),? )(?P<year>\d{4})" + _BETWEEN + _CLOCK
)


class AmbiguousDates(ValueError):
    """Days and months that cannot be told apart, on more than one day."""


def is_date(text: str) -> bool:
    """Whether a text has the form of a date and a time of the day."""
    return (_NUMBERED.match(text) or _NAMED.match(text)) is not None


class Dates:
    """Reads the dates of one column.

    Args:
        sample: of its cells; what is none is passed over.

    Raises:
        AmbiguousDates: either may be the day.
    """

    def __init__(self, sample: Iterable[str]) -> None:
        firsts, seconds, days = set[int](), set[int](), set[tuple[str, ...]]()
        for match in map(_NUMBERED.match, sample):
            if match is not None and len(match["one"]) < 3 and match["mark"] != ".":
                firsts.add(int(match["one"]))
                seconds.add(int(match["two"]))
                days.add(match.group("one", "two", "three"))
        self._day_first = max(firsts, default=0) > 12
        if len(days) > 1 and not self._day_first and max(seconds) <= 12:
            raise AmbiguousDates
        self.zoned: set[bool] = set()
        """Whether the dates that were read had a zone: both, where some had."""

    def ticks(self, text: str) -> int:
        """100-ns ticks since year 1, in UTC where the text gives a zone, else as written.

        Raises:
            ValueError: no date of these forms, nor of ISO 8601.
        """
        match = _NUMBERED.match(text) or _NAMED.match(text)
        if match is None:
            return self._iso(text)
        self.zoned.add(match["zone"] is not None)
        day = _named_day(match) if "month" in match.groupdict() else self._numbered_day(match)
        hour = int(match["hour"])
        if match["half"]:
            if not 1 <= hour <= 12:
                raise ValueError(text)
            hour = hour % 12 + 12 * (match["half"] in "pP")
        minute, second = int(match["minute"]), int(match["second"] or 0)
        if hour > 23 or minute > 59 or second > 60:
            raise ValueError(text)
        moment = day.toordinal() * 86_400 + 3600 * hour + 60 * minute + second - _offset(match["zone"])
        return moment * TICKS_PER_S + int((match["fraction"] or "")[:7].ljust(7, "0"))

    def _iso(self, text: str) -> int:
        moment = datetime.fromisoformat(text.strip())
        offset = moment.utcoffset()
        self.zoned.add(offset is not None)
        passed = moment.toordinal() * 86_400 + moment.hour * 3600 + moment.minute * 60 + moment.second
        if offset is not None:
            passed -= round(offset.total_seconds())
        return passed * TICKS_PER_S + moment.microsecond * 10

    def _numbered_day(self, match: re.Match[str]) -> date:
        one, two, three = (int(match[name]) for name in ("one", "two", "three"))
        if len(match["one"]) == 4:
            return date(one, two, three)
        year = three + 2000 if three < 100 else three
        return date(year, two, one) if self._day_first or match["mark"] == "." else date(year, one, two)


def _named_day(match: re.Match[str]) -> date:
    name = (match["month"] or match["named"])[:3].lower()
    return date(int(match["year"]), _MONTHS.index(name) + 1, int(match["day"] or match["dayth"]))


def _offset(zone: str | None) -> int:
    """Seconds that a zone is ahead of UTC."""
    if zone in (None, "Z", "UTC", "GMT"):
        return 0
    assert zone is not None
    ahead = zone.removeprefix("UTC").removeprefix("GMT")
    passed = 3600 * int(ahead[1:3]) + 60 * int(ahead[-2:])
    return passed if ahead[0] == "+" else -passed
