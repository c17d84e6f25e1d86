"""OpenTelemetry spans: which are model calls, what their numbers mean, and files that are not what they seem."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvplan.errors import DataError
from kvplan.traces.trace import open_trace


def span(
    name: str, parent: str | None = None, *, at: Any = 0, until: Any = None, **more: Any
) -> dict[str, Any]:
    usage = {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 20}
    return {
        "trace_id": "t", "span_id": name, "parent_span_id": parent,
        "start_time": f"2026-02-26T10:00:{at:02d}Z" if isinstance(at, int) and at < 60 else at,
        "end_time": f"2026-02-26T10:00:{until:02d}Z" if until is not None else None,
        "attributes": {**usage, **more},
    }  # fmt: skip


def lines(*spans: dict[str, Any]) -> str:
    return "".join(json.dumps(item) + "\n" for item in spans)


AGENT = {"gen_ai.operation.name": "invoke_agent"}
TOOL = {"gen_ai.usage.input_tokens": None}


def test_an_agent_s_span_is_not_counted_beside_the_calls_below_it(reading) -> None:
    text = lines(
        span("agent", at=0, until=9, **AGENT),
        span("tool", "agent", at=1, until=8, **TOOL),
        span("a", "tool", at=2, until=3),
        span("b", "tool", at=4, until=5),
    )
    requests, trace = reading(text)
    assert [request.arrival_s for request in requests] == [0.0, 2.0]
    assert trace.report.dropped["sums up the spans below it"].lines == [1]


def test_an_agent_without_an_end_or_a_cause_in_time_is_a_sum_too(reading) -> None:
    assert len(reading(lines(span("agent", at=5, **AGENT), span("a", "agent", at=6, until=7)))[0]) == 1


def test_a_gateway_s_span_is_the_call_that_it_passes_on(reading) -> None:
    assert len(reading(lines(span("outer", at=0, until=4), span("inner", "outer", at=1, until=3)))[0]) == 1


def test_a_turn_may_name_the_turn_before_as_its_parent(reading) -> None:
    turns = [span("a", at=0, until=2), span("b", "a", at=3, until=5), span("c", "b", at=5, until=6)]
    assert len(reading(lines(*turns))[0]) == 3


def test_parents_in_circles_end(reading) -> None:
    requests, _ = reading(lines(span("a", "b"), span("b", "a", at=1), span("c", "c", at=2)))
    assert len(requests) == 3


def test_a_span_exported_twice_is_one(reading) -> None:
    requests, trace = reading(lines(span("a"), span("b"), span("a")))
    assert len(requests) == 2
    assert trace.report.dropped["span seen before (the same trace and span id)"].lines == [3]


def test_a_span_exported_before_it_was_complete_is_not_the_one_that_counts(reading) -> None:
    requests, trace = reading(lines(span("a", **TOOL), span("a", **{"gen_ai.operation.name": ["odd"]})))
    assert len(requests) == 1
    assert list(trace.report.dropped) == ["no token counts (gen_ai.usage.*, llm.token_count.*)"]


@pytest.mark.parametrize(
    ("unit", "start", "step"),
    [
        ("seconds", 1_700_000_000.25, 0.5),
        ("milliseconds", 1_700_000_000_250, 500),
        ("microseconds", 1_700_000_000_250_000, 500_000),
        ("nanoseconds", 1_700_000_000_250_000_000, 500_000_000),
    ],
)
@pytest.mark.parametrize("written", [lambda value: value, str], ids=["number", "text"])
def test_the_unit_of_times_is_told_by_their_size(reading, unit, start, step, written) -> None:
    requests, trace = reading(lines(*(span(str(i), at=written(start + i * step)) for i in range(3))))
    assert [request.arrival_s for request in requests] == [0.0, 0.5, 1.0]
    notes = [note for note in trace.report.remarks() if "since 1970" in note]
    assert notes == (
        [] if unit == "nanoseconds" else [f"start_time is a number, taken for {unit} since 1970"]
    )


@pytest.mark.parametrize("at", [12.5, 100, 1e300, -1.7e9, True, "12", [1]])
def test_numbers_that_are_no_time_since_1970_are_counted(reading, at) -> None:
    _, trace = reading(lines(span("a"), {**span("b"), "start_time": at}))
    assert trace.report.dropped["no start time that can be read"].lines == [2]


def test_counts_may_be_written_as_floats(reading) -> None:
    more = {"gen_ai.usage.input_tokens": 120.0, "gen_ai.usage.output_tokens": 7.0}
    (request,), _ = reading(lines(span("a", **more)))
    assert (request.prompt_tokens, request.output_tokens) == (120, 7)
    half = {"gen_ai.usage.input_tokens": 120.5}
    _, trace = reading(lines(span("a"), span("b", **half)))
    assert trace.report.dropped["no token counts (gen_ai.usage.*, llm.token_count.*)"].lines == [2]


def test_indented_spans_in_a_row(reading) -> None:
    """As Python's console exporter prints them."""
    spans = []
    for number in range(3):
        item = span(str(number), at=number)
        item["context"] = {"trace_id": "0x7", "span_id": item.pop("span_id")}
        del item["trace_id"]
        spans.append(json.dumps(item, indent=4))
    requests, _ = reading("\n".join(spans) + "\n", "console.json")
    assert [(request.arrival_s, request.session) for request in requests] == [
        (0.0, "0x7"),
        (1.0, "0x7"),
        (2.0, "0x7"),
    ]


@pytest.mark.parametrize(
    "opening", ['{"spans":[', '{"spans":[{"attributes":[', '{"requests":[{"hash_id_scope":[']
)
def test_json_without_a_bottom_is_a_bad_row(tmp_path, opening) -> None:
    path = tmp_path / "deep.json"
    path.write_text(opening * 20_000)
    with pytest.raises(DataError, match=r"JSON nested too deeply|not JSON|half-written"):
        list(open_trace(path).requests())


@pytest.mark.parametrize("indent", [None, 2])
def test_jaeger_json_is_named(tmp_path, indent) -> None:
    found = {"traceID": "t", "spanID": "s", "operationName": "llm_request", "startTime": 1, "tags": []}
    path = tmp_path / "jaeger.json"
    path.write_text(json.dumps({"data": [{"traceID": "t", "spans": [found]}]}, indent=indent))
    with pytest.raises(DataError, match="this looks like Jaeger JSON") as caught:
        open_trace(path)
    assert "OTLP JSON" in caught.value.hint


@pytest.mark.parametrize("nested", [False, True])
def test_spans_of_openinference(reading, nested) -> None:
    tokens = {"prompt": 70, "completion": 7, "prompt_details": {"cache_read": 30}}
    counts: dict[str, Any] = {"llm.token_count.prompt": 70, "llm.token_count.completion": 7, "session.id": "s",
              "openinference.span.kind": "LLM", "llm.token_count.prompt_details.cache_read": 30}  # fmt: skip
    agent = {**counts, "openinference.span.kind": "AGENT"}
    if nested:
        counts = {"llm": {"token_count": tokens}, "session": {"id": "s"}}
        counts["openinference"] = {"span": {"kind": "LLM"}}
        agent = {**counts, "openinference": {"span": {"kind": "AGENT"}}}
    spans = [span("agent", at=0, until=8), span("a", "agent", at=1, until=5), span("find", "agent", at=6)]
    spans[0]["attributes"], spans[1]["attributes"] = agent, counts
    spans[2]["attributes"] = {"openinference.span.kind": "RETRIEVER"}
    requests, trace = reading(lines(*spans))
    assert [(item.prompt_tokens, item.output_tokens, item.session) for item in requests] == [(70, 7, "s")]
    assert trace.report.dropped["sums up the spans below it"].lines == [1]
    assert trace.report.dropped["not a model call (by its openinference.span.kind)"].lines == [3]
    assert "provider-reported cached tokens: 30 of 70 (42.9%)" in trace.report.notes


def test_names_as_python_writes_protobufs_json(reading) -> None:
    """``MessageToJson(..., preserving_proto_field_name=True)``."""
    attributes = [
        {"key": f"gen_ai.usage.{side}_tokens", "value": {"int_value": str(tokens)}}
        for side, tokens in (("input", 100), ("output", 20))
    ]
    spans = [
        {"trace_id": "t", "span_id": str(n), "start_time_unix_nano": str((1_700_000_000 + n) * 10**9), "attributes": attributes}
        for n in range(3)
    ]  # fmt: skip
    requests, trace = reading(
        json.dumps({"resource_spans": [{"scope_spans": [{"spans": spans}]}]}), "trace.json"
    )
    assert trace.format == "otel"
    assert [item.arrival_s for item in requests] == [0.0, 1.0, 2.0]
