"""``--vary``: how axes are read, and which points they make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import UsageError
from kvplan.scenario.axes import MAX_POINTS, parse_axis, points


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("cache.eviction=lru,lfu", ("lru", "lfu")),
        ("cache.blocks=1000, 2000", (1000, 2000)),
        ("cache.blocks=1000..4000:1500", (1000, 2500, 4000)),
        ("cache.blocks=7..7:1", (7,)),
        ("cache.pinned=null,{memory: 0.1, prefixes: [{tokens: 1}, {tokens: 2}]}",
         (None, {"memory": 0.1, "prefixes": [{"tokens": 1}, {"tokens": 2}]})),
        ("model='a,b',c", ("a,b", "c")),
        ("engine.async_scheduling=true,false", (True, False)),
        (" seed = 1 ", (1,)),
        ("engine.version=0.10,0.1, 0.33,'0.8.5'", ("0.10", "0.1", "0.33", "0.8.5")),
    ],
)  # fmt: skip
def test_values_are_yaml_and_commas_may_be_inside(text: str, values: tuple[object, ...]) -> None:
    assert parse_axis(text).values == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cache.blocks", "cannot read --vary"),
        ("=1,2", "cannot read --vary"),
        ("a..b=1", "cannot read --vary"),
        ("a=1,,2", "empty value"),
        ("a=", "empty value"),
        ("a=1,2,1", "'1' twice"),
        ("a=x,'x'", "twice"),
        ("a=[1,2", "cannot read the value"),
        ("a=5..1:1", "no values"),
        ("a=1..5:0", "no values"),
        ("a=1..99999999:1", "more than 1,000 values"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        parse_axis(text)
    assert "--vary" in error.value.message or "range" in error.value.message


def test_the_last_axis_changes_fastest() -> None:
    axes = [parse_axis("a=1,2"), parse_axis("b=x,y")]
    assert [tuple(point.values()) for point in points(axes)] == [
        ("1", "x"),
        ("1", "y"),
        ("2", "x"),
        ("2", "y"),
    ]


@pytest.mark.parametrize("other", ["a.b=2", "a=2", "a.b.c=3"])
def test_two_axes_do_not_set_one_field(other: str) -> None:
    with pytest.raises(UsageError, match="set the same field"):
        points([parse_axis("a.b=1"), parse_axis(other)])


def test_names_that_begin_alike_are_two_fields() -> None:
    assert len(points([parse_axis("cache.block=1"), parse_axis("cache.blocks=1,2")])) == 2


def test_a_sweep_is_bounded() -> None:
    axes = [parse_axis(f"{key}=1..40:1") for key in "ab"]
    with pytest.raises(UsageError, match=f"1,600 points .* {MAX_POINTS:,}"):
        points(axes)


@given(st.lists(st.integers(-999, 999), min_size=1, max_size=9, unique=True))
def test_reading_is_the_inverse_of_writing(values: list[int]) -> None:
    assert parse_axis("k=" + ",".join(map(str, values))).values == tuple(values)


@pytest.mark.parametrize("text", ["1..3", "1..2:0.5", "0.5..2:1", "1..10:", "-3..3"])
def test_a_range_in_another_form_is_not_taken_for_a_value(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read the range") as failure:
        parse_axis(f"workload.rate={text}")
    assert "first..last:step" in str(failure.value.hint)


def test_dots_alone_make_no_range() -> None:
    assert parse_axis("workload.trace=../a.csv,./b1.csv").texts == ("../a.csv", "./b1.csv")
