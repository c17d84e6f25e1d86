"""Two results side by side: what differs is found, nothing else, and intervals are judged the same both ways."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.cli.app import run
from kvplan.reporting.comparison import Change, LatencyChange, compare
from kvplan.reporting.comparison_text import answers
from kvplan.reporting.loading import parse_result
from kvplan.reporting.result import result_json
from kvplan.reporting.wording import label

intervals = st.none() | st.tuples(st.floats(0, 10), st.floats(0, 10)).map(lambda pair: tuple(sorted(pair)))


@given(st.floats(0.1, 10), st.floats(0.1, 10), intervals, intervals)
def test_a_judgement_does_not_depend_on_the_order(a: float, b: float, one: Any, other: Any) -> None:
    there = LatencyChange(Change("x", a, b, "s"), one, other)
    back = LatencyChange(Change("x", b, a, "s"), other, one)
    assert there.judgement == back.judgement
    if there.judgement == "beyond":
        assert max(one[0], other[0]) > min(one[1], other[1])


def test_a_result_equals_itself(any_document: dict[str, Any]) -> None:
    result = parse_result(any_document)
    found = compare(result, result)
    assert (found.scenario, found.totals, found.strategies) == ((), (), ())
    assert {item.judgement for item in found.latency} <= {"equal"}


def test_every_kind_of_difference_is_named(result_document: Any) -> None:
    document = result_document("strategies")
    other = copy.deepcopy(document)
    other["scenario"]["cache"]["eviction"] = "lfu"
    del other["scenario"]["engine"]["policy"]
    other["totals"]["evicted_blocks"] += 1
    other["strategies"]["host_tier"][1]["value"] = 5
    del other["strategies"]["pinned prefixes"]
    other["provenance"]["inputs"][0]["sha256"] = "ab" * 32
    other["provenance"]["versions"]["kvplan"] = "9"
    other["complete"] = False
    found = compare(parse_result(document), parse_result(other))
    assert {(change.name, change.b) for change in found.scenario} == {
        ("cache.eviction", "lfu"),
        ("engine.policy", None),
    }
    assert [change.name for change in found.totals] == ["evicted_blocks"]
    assert {change.name for change in found.strategies} == {
        "host_tier: stored_blocks",
        "pinned prefixes: expired",
        "pinned prefixes: slowdown",
    }
    notes = " ".join(found.notes)
    for words in ("B is incomplete", "different traces", "kvplan 0.1.0 made A, kvplan 9 made B"):
        assert words in notes


def test_what_does_not_compare_is_said(result_document: Any) -> None:
    document = result_document("full")
    other = copy.deepcopy(document)
    other["trace"]["reuse_known"] = not document["trace"]["reuse_known"]
    other["totals"]["rejected"] += 3
    other["totals"]["finished"] -= 3
    notes = " ".join(compare(parse_result(document), parse_result(other)).notes)
    assert "share is unknown, not nothing: prefix hits do not compare" in notes
    assert "3 of B: latencies are of those who were served" in notes
    same = " ".join(compare(parse_result(document), parse_result(document)).notes)
    assert "unknown" not in same
    assert "rejected" not in same


@pytest.mark.parametrize(
    ("a", "b", "ratio"),
    [(2, 3, 0.5), (2.0, 1.0, -0.5), (0, 3, None), (None, 3, None), ("x", "y", None), (True, False, None)],
)
def test_a_ratio_is_one_of_numbers(a: Any, b: Any, ratio: float | None) -> None:
    assert Change("x", a, b).ratio == ratio


@pytest.mark.parametrize("form", ["table", "md", "csv", "json"])
def test_hostile_results_stay_text(
    result_document: Any, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for variant in ("full", "hostile"):
        path = tmp_path / f"{variant}.json"
        path.write_text(result_json(parse_result(result_document(variant))))
        paths.append(str(path))
    assert run(["diff", *paths, "-f", form]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert form == "json" or "\u202e" not in text
    if form == "md":
        assert "<" not in text
    if form == "csv":
        assert not any(cell[:1] in ("=", "@") for line in text.splitlines() for cell in line.split(","))
    if form == "table":
        assert max(map(len, text.splitlines())) <= 80


def _with_tiers(document: dict[str, Any], cached_tokens: int) -> dict[str, Any]:
    document["strategies"] = {
        "tiers": [{"name": "cached_tokens", "value": cached_tokens, "unit": "tokens", "meaning": "m"}]
    }
    return document


def test_what_comes_from_a_tier_counts_as_reused(result_document: Any) -> None:
    document = result_document("full")
    queried, hit = document["totals"]["queried_tokens"], document["totals"]["hit_tokens"]
    other = _with_tiers(copy.deepcopy(document), hit + queried // 4)
    found = compare(parse_result(document), parse_result(other))
    (change,) = (change for change in found.totals if change.name == "reused_ratio")
    assert (change.a, change.b) == (hit / queried, pytest.approx(hit / queried + 0.25))
    assert "prefix hits with the tiers +25.0 points" in answers(found)[-1]
    other = _with_tiers(copy.deepcopy(document), hit)
    assert "prefix hits" not in " ".join(answers(compare(parse_result(document), parse_result(other))))


def test_fewer_points_have_the_sign_of_fewer_percent(result_document: Any) -> None:
    document = result_document("full")
    other = copy.deepcopy(document)
    other["totals"]["hit_tokens"] -= document["totals"]["queried_tokens"] // 10
    assert "prefix hits −10.0 points" in " ".join(
        answers(compare(parse_result(document), parse_result(other)))
    )


def test_blocks_of_two_sizes_do_not_compare(result_document: Any) -> None:
    document = result_document("full")
    other = copy.deepcopy(document)
    other["pool"]["block_size"] = 1
    other["totals"]["evicted_blocks"] *= 16
    size = document["pool"]["block_size"]
    found = compare(parse_result(document), parse_result(other))
    assert f"a block holds {size} tokens in A and 1 in B: counts of blocks do not compare" in found.notes
    assert ("block_size", size, 1) in [(change.name, change.a, change.b) for change in found.totals]
    assert not any(
        "a block holds" in note for note in compare(parse_result(document), parse_result(document)).notes
    )


def test_who_meets_its_objectives_comes_first(result_document: Any) -> None:
    judged = result_document("slo_missed")
    names = [slo["name"] for slo in judged["slo"] if not slo["passed"]]
    met = copy.deepcopy(judged)
    for slo in met["slo"]:
        slo.update(passed=True, limit_s=slo["value_s"] * 2)
    without = copy.deepcopy(judged)
    without["slo"] = []
    one, other, free = (parse_result(document) for document in (met, judged, without))
    missed = " and ".join(label(name) for name in names)
    found = compare(one, other)
    assert answers(found)[0] == f"A meets every objective; B misses {missed}."
    assert found.to_dict("a", "b")["missed"] == {"a": (), "b": tuple(names)}
    assert "they are judged by different objectives" in found.notes
    assert answers(compare(other, other)) == [f"Both miss {missed}."]
    assert answers(compare(one, one)) == ["Both meet every objective."]
    assert answers(compare(free, one))[0] == "A has no objectives; B meets every objective."
    assert answers(compare(free, free)) == []
