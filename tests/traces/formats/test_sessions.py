"""Readers of sessions and spans: tokens, bailian, weka, otel, tracelab, servegen."""

from __future__ import annotations

import json
import tarfile

import pytest

from kvplan.traces.request import OUTPUT_BASE, OUTPUT_STRIDE
from kvplan.traces.tokenspace import UNHASHED_BASE
from kvplan.traces.trace import open_trace


def jsonl(rows) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


# --- tokens


def test_tokens_sample(reading):
    rows = [
        {
            "id": f"r{i}",
            "arrival": i * 0.25,
            "prompt_token_ids": [*range(100, 110 + i), 7],
            "output_length": 3 + i,
        }
        for i in range(19)
    ]
    rows.append(
        {"id": "last", "arrival": 9.0, "prompt_token_ids": [5], "output_token_ids": [6, 7, 9], "priority": -2}
    )
    requests, trace = reading(jsonl(rows))
    assert trace.format == "tokens"
    assert requests[2].prompt == ((100, 12), (7, 1))
    assert requests[2].output == ((OUTPUT_BASE + 2 * OUTPUT_STRIDE, 5),)
    assert requests[-1].output == ((6, 2), (9, 1))
    assert requests[-1].priority == -2
    assert trace.reuse_known


def test_tokens_bad_rows(reading):
    good = {"id": "a", "arrival": 0, "prompt_token_ids": [1], "output_length": 1}
    rows = [
        good,
        good,
        {**good, "id": "b", "prompt_token_ids": []},
        {**good, "id": "c", "output_token_ids": [1]},
        {**good, "id": "d", "prompt_token_ids": [-1]},
        {**good, "id": "e", "prompt_token_ids": [2**63]},
        {"id": "f", "arrival": 0, "prompt_token_ids": [1]},
    ]
    requests, trace = reading(jsonl(rows))
    assert [r.id for r in requests] == ["a"]
    assert {reason: entry.lines for reason, entry in trace.report.dropped.items()} == {
        "id used before": [2],
        "zero prompt tokens": [3],
        "needs exactly one of output_length and output_token_ids": [4, 7],
        "token id negative or beyond 63 bits": [5, 6],
    }


# --- bailian


def test_bailian_sample(reading):
    rows = [
        {
            "chat_id": i,
            "parent_chat_id": i - 1 if i % 4 else -1,
            "timestamp": i * 1.5,
            "input_length": 40 + i,
            "output_length": 9,
            "type": "text",
            "turn": i % 4 + 1,
            "hash_ids": [1, 2, *range(10 + i, 10 + i + (40 + i + 15) // 16 - 2)],
        }
        for i in range(20)
    ]
    requests, trace = reading(jsonl(rows))
    assert trace.format == "bailian"
    assert trace.block_size == 16
    assert requests[2].arrival_s == 3.0
    assert requests[0].prompt == ((16, 32), (160, 8))
    assert [r.session for r in requests[:6]] == ["0", "0", "0", "0", "4", "4"]


def test_bailian_parent_outside_the_file(reading):
    row = {
        "chat_id": 9,
        "parent_chat_id": 5,
        "timestamp": 1,
        "input_length": 16,
        "output_length": 1,
        "hash_ids": [3],
    }
    (request,), trace = reading(jsonl([row]))
    assert request.session == "5"
    assert trace.report.remarks() == ["1 turns follow a chat that is not in the file"]


@pytest.mark.parametrize("root", [-1, None])
def test_bailian_roots(reading, root):
    row = {"timestamp": 1, "input_length": 16, "output_length": 1, "hash_ids": [3]}
    rows = [{**row, "chat_id": 7, "parent_chat_id": root}, {**row, "chat_id": 8, "parent_chat_id": 7}]
    requests, trace = reading(jsonl(rows))
    assert [request.session for request in requests] == ["7", "7"]
    assert trace.report.remarks() == []


# --- weka


def call(t, tokens, ids, out=5, **more):
    return {"t": t, "type": "n", "model": "m", "in": tokens, "out": out, "hash_ids": ids, **more}


def session(name, calls, scope="local"):
    return {"id": name, "block_size": 64, "hash_id_scope": scope, "requests": calls}


AGENT = {"t": 3.0, "type": "subagent", "agent_id": "x", "requests": [call(0.5, 64, [9]), call(1.0, 64, [9])]}
SESSIONS = [
    session("one", [call(0.0, 130, [1, 2]), AGENT, call(9.0, 200, [1, 2, 3], think_time=3.0)]),
    session("two", [call(float(i), 130 + i, [1, 2]) for i in range(16)]),
]


def by_session(requests, name):
    return [r for r in requests if r.session == name]


def check_sessions(requests, trace):
    assert trace.format == "weka"
    assert trace.block_size == 64
    assert len(requests) == 20
    one, two = by_session(requests, "one"), by_session(requests, "two")
    assert [r.arrival_s for r in one] == [0.0, 3.5, 4.0, 9.0]
    assert one[0].prompt[0] == (one[3].prompt[0][0], 128)
    assert one[3].prompt[0][1] == 192
    assert one[1].prompt == one[2].prompt
    starts_one = {r.prompt[0][0] for r in one}
    assert not starts_one & {r.prompt[0][0] for r in two}  # ids are local to a session
    assert one[0].prompt[1][0] >= UNHASHED_BASE
    assert trace.report.resorted == 0


def test_weka_one_session_a_line(reading):
    check_sessions(*reading(jsonl(SESSIONS)))


def test_weka_array_and_spread_over_lines(reading):
    check_sessions(*reading(json.dumps(SESSIONS, indent=1), "w.json"))


def test_weka_directory_and_archives(tmp_path):
    folder = tmp_path / "sessions"
    folder.mkdir()
    for found in SESSIONS:
        (folder / f"{found['id']}.json").write_text(json.dumps(found))
    archive = tmp_path / "sessions.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, "sessions")
    for place in (folder, archive):
        trace = open_trace(place)
        check_sessions(list(trace.requests()), trace)


def test_weka_sessions_start_at_random_with_a_rate(reading):
    requests, trace = reading(jsonl(SESSIONS), rate=0.1, seed=1)
    starts = {name: by_session(requests, name)[0].arrival_s for name in ("one", "two")}
    assert 0.0 < starts["one"] < starts["two"]
    assert any("Poisson" in note for note in trace.report.remarks())


def test_weka_bad_sessions_and_calls(reading):
    bad = session("bad", [call(0.0, 64, [1, 2]), call(1.0, 64, [1], out=0), call(2.0, 64, [1])])
    text = jsonl([bad, session("global", [call(0.0, 64, [1])], "global")]) + '{"id": "cut", "requests": [{"t"'
    requests, trace = reading(text, "w.jsonl")
    assert len(requests) == 1
    assert {reason: entry.count for reason, entry in trace.report.dropped.items()} == {
        "number of hash_ids is not in / 64 rounded up or down": 1,
        "zero output tokens": 1,
        "hash_id_scope or block_size not as in the first session": 1,
        "session: half-written last line": 1,
    }


def test_weka_global_ids_are_shared(reading):
    found = [session(name, [call(0.0, 64, [1])], "global") for name in "ab"]
    requests, _ = reading(jsonl(found))
    assert requests[0].prompt == requests[1].prompt


def test_limit_of_merged_sessions_is_by_time(reading):
    requests, trace = reading(jsonl(SESSIONS), limit=3)
    assert [r.arrival_s for r in requests] == [0.0, 0.0, 1.0]
    assert trace.report.dropped["beyond the request limit"].count == 17


# --- otel


def span(i, **attributes):
    return {
        "trace_id": f"t{i // 3}",
        "span_id": str(i),
        "start_time": f"2026-02-26T10:00:{i:02d}.250000+00:00",
        "attributes": {"gen_ai.operation.name": "chat", **attributes},
    }


def usage(i):
    return {"gen_ai.usage.input_tokens": 50 + i, "gen_ai.usage.output_tokens": 5 + i}


@pytest.mark.parametrize("layout", ["document", "lines", "array"])
def test_otel_sample(reading, layout):
    spans = [span(i, **usage(i)) for i in reversed(range(20))]
    text = {
        "document": json.dumps({"spans": spans}, indent=1),
        "lines": jsonl(spans),
        "array": json.dumps(spans),
    }
    requests, trace = reading(text[layout], "spans.json")
    assert trace.format == "otel"
    assert [(r.arrival_s, r.prompt_tokens) for r in requests] == [(float(i), 50 + i) for i in range(20)]
    assert requests[4].session == "t1"


def test_otlp_and_old_names(reading):
    attributes = [
        {"key": "gen_ai.usage.prompt_tokens", "value": {"intValue": "70"}},
        {"key": "gen_ai.usage.completion_tokens", "value": {"intValue": 8}},
        {"key": "gen_ai.usage.cache_read.input_tokens", "value": {"intValue": "35"}},
    ]
    found = {
        "traceId": "x",
        "spanId": "1",
        "startTimeUnixNano": "1700000000000000000",
        "attributes": attributes,
    }
    text = json.dumps(
        {
            "resourceSpans": [
                {
                    "scopeSpans": [
                        {
                            "spans": [
                                found,
                                {**found, "spanId": "2", "startTimeUnixNano": "1700000001500000000"},
                            ]
                        }
                    ]
                }
            ]
        }
    )
    requests, trace = reading(text, "otlp.json")
    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in requests] == [(0.0, 70, 8), (1.5, 70, 8)]
    assert "provider-reported cached tokens: 70 of 140 (50.0%)" in trace.report.remarks()


def test_otel_spans_that_are_no_model_calls(reading):
    other = {"span_id": "9", "start_time": "2026-02-26T10:00:00Z", "attributes": {"http.method": "GET"}}
    late = {**span(3, **usage(3)), "start_time": "soon"}
    _, trace = reading(json.dumps({"spans": [span(1, **usage(1)), other, span(2), late, 7]}), "s.json")
    assert {reason: entry.lines for reason, entry in trace.report.dropped.items()} == {
        "not a model call (no gen_ai or llm attributes)": [2],
        "no token counts (gen_ai.usage.*, llm.token_count.*)": [3],
        "no start time that can be read": [4],
        "span is not an object": [5],
    }


# --- tracelab


def test_tracelab_sample(reading):
    rows = [
        {
            "session_id": "s",
            "round_index": i,
            "input_tokens_total": 100 + i,
            "prefix_tokens": 90,
            "newly_append_tokens": 10 + i,
            "output_tokens": 7,
            "timing_events": [
                {"event_type": "tool_result", "timestamp": f"2026-06-01T05:40:{i:02d}.151Z"},
                {"event_type": "tool_result", "timestamp": f"2026-06-01T05:40:{i:02d}.651Z"},
                {"event_type": "text", "timestamp": f"2026-06-01T05:41:{i:02d}.000Z"},
            ],
        }
        for i in range(20)
    ]
    requests, trace = reading(jsonl(rows))
    assert trace.format == "tracelab"
    assert [r.arrival_s for r in requests] == [float(i) for i in range(20)]
    assert any("cached tokens: 1,800 of 2,190" in note for note in trace.report.remarks())


# --- servegen


def servegen(folder, number, rate, text, output):
    windows = [f"{600 * i},{rate if i != 1 else 0},1.0,Gamma,1.0,0.1" for i in range(4)]
    (folder / f"chunk-{number}-trace.csv").write_text("\n".join(windows) + "\n")
    tables = {"text_tokens": text, "output_tokens": output}
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps({"0": tables, "1200": tables}))


def test_servegen_draws_what_the_parameters_say(tmp_path):
    servegen(tmp_path, 0, 0.5, "{10: 0.5, 20: 0.5}", "{3: 1.0}")
    servegen(tmp_path, 7, 0.25, "{100: 1.0}", "{30: 1.0}")
    trace = open_trace(tmp_path, seed=5)
    requests = list(trace.requests())
    assert trace.format == "servegen"
    assert requests == list(open_trace(tmp_path, seed=5).requests())
    assert len(requests) == pytest.approx(0.75 * 1800, rel=0.15)
    assert not [r for r in requests if 600 <= r.arrival_s < 1200]
    first = [r for r in requests if r.session == "client-0"]
    assert {(r.prompt_tokens, r.output_tokens) for r in first} == {(10, 3), (20, 3)}
    assert len(first) == pytest.approx(900, rel=0.15)


@pytest.mark.parametrize(
    "window",
    [
        "nan,1,1,Gamma,1,1",
        "0,inf,1,Gamma,1,1",
        "0,1e300,1,Gamma,1,1",
        "0,1,1,Gamma,nan,1",
        "0,-1,1,Gamma,1,1",
        "0,1",
    ],
)
def test_servegen_windows_out_of_range(tmp_path, window):
    servegen(tmp_path, 0, 0.5, "{10: 1.0}", "{3: 1.0}")
    servegen(tmp_path, 1, 0.5, "{10: 1.0}", "{3: 1.0, 1e999: 0.5}")
    (tmp_path / "chunk-2-trace.csv").write_text(window + "\n")
    trace = open_trace(tmp_path)
    assert {r.session for r in trace.requests()} == {"client-0"}
    assert any("chunk-2-trace.csv: window is not" in reason for reason in trace.report.dropped)
    assert any("chunk-1-dataset.json: distribution" in reason for reason in trace.report.dropped)


def test_servegen_never_evaluates_what_it_reads(tmp_path):
    servegen(tmp_path, 0, 0.5, "{10: 1.0}", "{3: 1.0}")
    servegen(tmp_path, 1, 0.5, "__import__('os').abort()", "{3: 1.0}")
    trace = open_trace(tmp_path)
    assert {r.session for r in trace.requests()} == {"client-0"}
    assert any("distribution is not a dict" in reason for reason in trace.report.dropped)
