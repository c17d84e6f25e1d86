"""Numbers and foreign text as shown."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.reporting.wording import (
    change_text,
    decimal,
    label,
    numbers_text,
    percent,
    plain,
    plural,
    seconds,
    seconds_range,
    sentence_list,
    significant,
)


@given(st.text())
def test_no_control_or_direction_character_survives(text: str):
    shown = plain(text)
    assert all(unicodedata.category(ch) not in ("Cc", "Cf", "Cs") for ch in shown)
    assert len(shown) <= 400
    assert plain(shown) == shown


def test_forged_names_are_marked_not_cleaned():
    assert plain("gpt\u202e4") == "gpt\ufffd4"
    assert plain("a\nb\t c") == "a b c"


@given(st.floats(1e-9, 1e12))
def test_significant_keeps_four_digits(value: float):
    assert significant(value) == pytest.approx(value, rel=5.1e-4)
    assert len(f"{significant(value):.17g}") >= 1


@given(st.floats(1e-4, 1e9))
def test_decimal_is_close_and_has_no_exponent(value: float):
    text = decimal(value)
    assert "e" not in text
    assert math.isclose(float(text.replace(",", "")), value, rel_tol=5.1e-3)


@given(st.floats(0, 1))
def test_percent_never_rounds_to_all_or_nothing(ratio: float):
    text = percent(ratio)
    assert (text == "100.0%") == (ratio == 1)
    assert (text == "0.0%") == (ratio == 0)


def test_examples():
    assert percent(0.3821) == "38.2%"
    assert percent(0.99999) == "> 99.9%"
    assert percent(None) == "–"
    assert label("kv_pool") == "KV pool"
    assert label("ttft_p99_s") == "TTFT p99"
    assert plural(1, "row") == "1 row"
    assert plural(0, "row") == "0 rows"
    assert sentence_list(["a", "b", "c"]) == "a, b and c"


def test_a_range_says_its_unit_once_where_it_can():
    assert seconds_range((0.0281, 0.041)) == "28.1–41.0 ms"
    assert seconds_range((0.624, 1.25)) == "624 ms–1.25 s"
    assert seconds_range(None) == "–"


def test_a_fall_to_little_is_no_fall_to_nothing():
    assert change_text(-0.726) == "−72.6%"
    assert change_text(-0.99976) == "< −99.9%"
    assert change_text(-1.0) == "−100.0%"


@pytest.mark.parametrize(
    ("numbers", "said"),
    [([1], "1"), ([1, 2], "1 and 2"), ([1, 2, 3], "1 to 3"), ([1, 3, 4, 5, 8, 9], "1, 3 to 5, 8 and 9")],
)
def test_numbers_in_a_row_are_a_range(numbers: list[int], said: str) -> None:
    assert numbers_text(numbers) == said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.009996, "10.0 ms"),
        (0.9996, "1.00 s"),
        (119.96, "2.00 min"),
        (7199.9, "2.00 h"),
        (0.00995, "9.95 ms"),
    ],
)
def test_durations_have_three_digits_also_where_they_round_up(value: float, text: str) -> None:
    assert seconds(value) == text
