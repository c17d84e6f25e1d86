"""The border: what is a kvplan.result/1 document, and how precisely a wrong one is refused."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import DataError
from kvplan.reporting.loading import key_path, load_result, loads_result, parse_result
from kvplan.reporting.result import Result, result_json


def test_reading_and_writing_is_the_identity(any_document):
    text = result_json(parse_result(any_document))
    assert json.loads(text) == any_document
    assert result_json(loads_result(text)) == text


def test_keys_keep_their_order(result_document):
    document = result_document()
    assert list(json.loads(result_json(parse_result(document)))) == list(document)


def test_producer_may_validate_its_own_dictionary(result_document):
    assert Result.model_validate(result_document()).totals.requests == 1000


def test_hit_ratio_and_peak_use_are_unknown_rather_than_zero(result_document):
    document = result_document("empty")
    document["pool"]["usable_blocks"] = 0
    result = parse_result(document)
    assert result.hit_ratio is None
    assert result.peak_use is None


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("totals", "steps"), "many", "totals.steps"),
        (("totals", "steps"), -1, "totals.steps"),
        (("totals", "steps"), 1.5, "totals.steps"),
        (("totals", "steps"), True, "totals.steps"),
        (("complete",), 1, "complete"),
        (("series", "t_s", 3), "x", "series.t_s[3]"),
        (("latency", "ttft_s", "p99"), None, "latency.ttft_s.p99"),
        (("slo", 1, "passed"), "yes", "slo[1].passed"),
        (("accuracy", "model"), "guess", "accuracy.model"),
        (("accuracy", "bands", "ttft"), [0.1], "accuracy.bands.ttft"),
        (("provenance", "inputs", 0, "sha256"), "xyz", "provenance.inputs[0].sha256"),
        (("scenario", "x"), float("nan"), "scenario"),
    ],
)
def test_a_wrong_value_is_named_by_its_key_path(
    result_document, path: tuple[Any, ...], value: object, place: str
):
    document = result_document()
    node = document
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    with pytest.raises(DataError) as caught:
        parse_result(document, where="r.json")
    assert caught.value.message.startswith(f"{place}: ")
    assert caught.value.where == "r.json"


def test_a_missing_and_an_unknown_key(result_document):
    document = result_document()
    del document["totals"]["steps"]
    with pytest.raises(DataError, match=r"totals\.steps: missing"):
        parse_result(document)
    document = result_document()
    document["totals"]["step"] = 3
    with pytest.raises(DataError) as caught:
        parse_result(document)
    assert caught.value.message == "totals.step: unknown key"
    assert caught.value.hint is not None
    assert "steps" in caught.value.hint


def test_all_problems_are_counted(result_document):
    document = result_document()
    del document["pool"], document["trace"], document["slo"]
    with pytest.raises(DataError, match="and 2 more problems"):
        parse_result(document)


def test_requests_are_conserved(result_document):
    document = result_document()
    document["totals"]["rejected"] = 1
    with pytest.raises(DataError, match="1000 requests, but 1000 finished"):
        parse_result(document)


def test_more_hits_than_lookups_are_refused(result_document):
    document = result_document()
    document["totals"]["hit_tokens"] = document["totals"]["queried_tokens"] + 1
    with pytest.raises(DataError, match="hit of"):
        parse_result(document)


def test_series_columns_have_one_length_and_counters_never_fall(result_document):
    document = result_document()
    document["series"]["running"].pop()
    with pytest.raises(DataError, match="running has 599 values, t_s has 600"):
        parse_result(document)
    document = result_document()
    document["series"]["hit_tokens"][5] = 0
    with pytest.raises(DataError, match="hit_tokens must never fall"):
        parse_result(document)


def test_percentiles_are_101_and_never_fall(result_document):
    document = result_document()
    document["distributions"]["ttft_s"].pop()
    with pytest.raises(DataError, match="percentiles 0 to 100 are 101"):
        parse_result(document)
    document = result_document()
    document["distributions"]["ttft_s"][50] = 99.0
    with pytest.raises(DataError, match="ttft_s falls"):
        parse_result(document)


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("", "not valid JSON", "r.json:1:1"),
        ('{"schema": "kvplan.result/1",\n "complete": tr', "not valid JSON", "r.json:2:14"),
        ("[1, 2]", "a result is a JSON object, not an array", "r.json"),
        ("7", "a result is a JSON object, not a number", "r.json"),
        ("{}", "expected schema 'kvplan.result/1', found none", "r.json"),
        ('{"schema": "kvplan.size/1"}', "found 'kvplan.size/1'", "r.json"),
        ('{"schema": "kvplan.result/1", "complete": NaN}', "NaN is not JSON", "r.json"),
        ("9" * 5000, "not a usable number", "r.json"),
        ("[" * 100_000, "nested too deeply", "r.json"),
        (b"\xff\xfe\xff", "not UTF-8", "r.json"),
    ],
)
def test_text_that_is_no_result(text: str | bytes, message: str, where: str):
    with pytest.raises(DataError) as caught:
        loads_result(text, where="r.json")
    assert message in caught.value.message
    assert caught.value.where == where


def test_a_later_schema_is_not_guessed_at(result_document):
    with pytest.raises(DataError) as caught:
        parse_result(result_document() | {"schema": "kvplan.result/2"})
    assert "version of kvplan that wrote" in str(caught.value.hint)


def test_a_scenario_cannot_be_a_bottomless_pit(result_document):
    document = result_document()
    node: dict[str, Any] = document["scenario"]
    for _ in range(40):
        node["deeper"] = {}
        node = node["deeper"]
    with pytest.raises(DataError, match="nested more than 32 deep"):
        parse_result(document)


def test_lone_surrogates_cannot_reach_a_report(result_document):
    document = result_document()
    document["scenario"]["note"] = "\ud800"
    with pytest.raises(DataError, match="scenario"):
        parse_result(document)
    document = result_document()
    document["warnings"] = ["\ud800"]
    with pytest.raises(DataError, match="half a surrogate pair"):
        parse_result(document)


def test_files_are_bounded(tmp_path, result_document):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result_document()))
    assert load_result(path).complete
    with pytest.raises(DataError, match="larger than the 1,000 bytes"):
        load_result(path, max_bytes=1000)


def test_a_dash_is_stdin(monkeypatch, result_document):
    data = json.dumps(result_document()).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert load_result("-").totals.finished == 1000


@given(st.lists(st.one_of(st.text("abc", min_size=1), st.integers(0, 9)), min_size=1, max_size=4))
def test_key_paths_show_every_step(location):
    path = key_path(location)
    assert all(str(part) in path for part in location)
    assert path.count("[") == sum(isinstance(part, int) for part in location)
