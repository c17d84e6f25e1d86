"""Dates as spreadsheets, log viewers and mail write them."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.traces.dates import AmbiguousDates, Dates
from kvplan.traces.formats.instants import TICKS_PER_S, Instants

WRITTEN = {
    "11/20/2026 10:00:01 AM": "2026-11-20 10:00:01",
    "11/20/2026, 12:00:01.250 am": "2026-11-20 00:00:01.25",
    "11/20/26 12:30 PM": "2026-11-20 12:30:00",
    "20/11/2026 22:00:01": "2026-11-20 22:00:01",
    "20.11.2026 10:00:01,5": "2026-11-20 10:00:01.5",
    "05.11.2026 10:00": "2026-11-05 10:00:00",
    "2026/11/20 10:00:01": "2026-11-20 10:00:01",
    "20/Nov/2026:10:00:01 +0200": "2026-11-20 08:00:01",
    "[20/Nov/2026:10:00:01 +0000]": "2026-11-20 10:00:01",
    "Fri, 20 Nov 2026 10:00:01 GMT": "2026-11-20 10:00:01",
    "Nov 20, 2026 @ 10:00:01.123": "2026-11-20 10:00:01.123",
    "Nov 20, 2026, 10:00:01 PM": "2026-11-20 22:00:01",
    "2026-11-20 10:00:01.072146 UTC": "2026-11-20 10:00:01.072146",
    "Fri Nov 20 2026 10:00:01 GMT+0100 (Central European Time)": "2026-11-20 09:00:01",
    "20.11.2026 10:00:01 UTC-05:30": "2026-11-20 15:30:01",
    "2026-11-20 10:00:01,072": "2026-11-20 10:00:01.072",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_dates_are_what_they_say(text: str) -> None:
    assert Dates([text]).ticks(text) == Instants().ticks(WRITTEN[text])


@given(st.datetimes(min_value=datetime(1990, 1, 1)), st.sampled_from("/.-"))
def test_what_iso_says_is_said_in_other_words_too(moment: datetime, mark: str) -> None:
    text = moment.strftime(f"%Y{mark}%m{mark}%d %I:%M:%S.%f %p")
    assert Dates([text]).ticks(text) == Instants().ticks(moment.strftime("%Y-%m-%d %H:%M:%S.%f"))


def test_a_day_above_twelve_settles_the_order_of_all() -> None:
    dates = Dates(["05/11/2026 10:00", "13/11/2026 10:00"])
    assert dates.ticks("13/11/2026 10:00") - dates.ticks("05/11/2026 10:00") == 8 * 86_400 * TICKS_PER_S


def test_one_day_alone_needs_no_order_and_several_do() -> None:
    dates = Dates(["05/11/2026 10:00", "05/11/2026 10:01"])
    assert dates.ticks("05/11/2026 10:01") - dates.ticks("05/11/2026 10:00") == 60 * TICKS_PER_S
    with pytest.raises(AmbiguousDates):
        Dates(["05/11/2026 10:00", "06/11/2026 10:00"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "32/11/2026 10:00",
        "20/11/2026",
        "2026-11-20 25:00",
        "20/Foo/2026:10:00:00",
        "1/1/2026 13:00 PM",
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Dates([text, "20/11/2026 10:00"]).ticks(text)
