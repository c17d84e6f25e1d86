"""Whose answer a request waited for: from recorded ends of answers, delays and think times."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.traces.request import Request
from kvplan.traces.synthesize import synthesize
from kvplan.traces.turns import Recorded, with_turns
from kvplan.traces.write import writer


def request(name: str, session: str | None = "s") -> Request:
    return Request(name, 0.0, ((0, 4),), 4, ((100, 2),), 2, 0, session)


def follows(recorded: list[Recorded], **options: float) -> dict[str, tuple[str, float] | None]:
    return {found.id: found.follows for found in with_turns(recorded, **options)}


def test_each_follows_the_last_answer_before_it() -> None:
    recorded = [
        Recorded(request("a"), 0.0, 2.0),
        Recorded(request("b"), 1.0, 5.0),  # beside a
        Recorded(request("c"), 3.0, 4.0),  # after a, beside b
        Recorded(request("d"), 6.5, None),  # after b
        Recorded(request("e"), 7.0, 9.0),  # nobody knows when d was answered
        Recorded(request("x", "other"), 8.0, 9.0),
        Recorded(request("y", None), 9.0, 9.5),
    ]
    found = follows(recorded, time_scale=2.0)
    assert found == {
        "a": None, "b": None, "c": ("a", 2.0), "d": ("b", 3.0), "e": ("b", 4.0), "x": None, "y": None,
    }  # fmt: skip


def test_a_recorded_think_time_is_exact_and_rounded_times_still_meet() -> None:
    recorded = [Recorded(request("a"), 0.0, 3.36), Recorded(request("b"), 3.0, 5.0, 0.3)]
    assert follows(recorded)["b"] is None
    assert follows(recorded, grain_s=1.0)["b"] == ("a", 0.3)


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 20)), st.sampled_from("pq")),
        max_size=25,
    )
)
def test_the_one_followed_is_the_latest_answered_of_the_session(
    drawn: list[tuple[int, int | None, str]],
) -> None:
    recorded = [
        Recorded(request(f"{n}", session), float(sent), None if took is None else float(sent + took))
        for n, (sent, took, session) in enumerate(drawn)
    ]
    for number, found in enumerate(with_turns(recorded)):
        sent_s, session = recorded[number].sent_s, found.session
        done = [
            (other.answered_s, place)
            for place, other in enumerate(recorded)
            if other.request.session == session and other.answered_s is not None
            and other.answered_s <= sent_s and (other.sent_s, place) < (sent_s, number)
        ]  # fmt: skip
        if not done:
            assert found.follows is None
        else:
            when, place = max(done)
            assert found.follows == (f"{place}", sent_s - when)


def test_a_long_session_of_calls_at_one_time_takes_no_time() -> None:
    recorded = [Recorded(request(f"{n}"), 0.0, 0.0) for n in range(20_000)]
    found = list(with_turns(recorded))
    assert found[0].follows is None
    assert found[1].follows == ("0", 0.0)


def test_weka_calls_follow_by_api_time(reading) -> None:
    calls = [
        {"t": 0.0, "type": "n", "in": 64, "out": 5, "hash_ids": [1], "api_time": 3.4},
        {"t": 3.0, "type": "n", "in": 70, "out": 5, "hash_ids": [1], "api_time": 2.0, "think_time": 0.2},
        {"t": 9.0, "type": "subagent", "requests": [
            {"t": 1.0, "type": "n", "in": 64, "out": 5, "hash_ids": [2], "api_time": 1.5}]},
        {"t": 13.0, "type": "n", "in": 90, "out": 5, "hash_ids": [1], "think_time": -5},
    ]  # fmt: skip
    session = {"id": "s", "block_size": 64, "hash_id_scope": "local", "requests": calls}
    found, _ = reading(json.dumps(session), name="w.json")
    assert [item.follows for item in found] == [
        None, ("000000", 0.2), ("000001", pytest.approx(5.0)), ("000002", pytest.approx(1.5)),
    ]  # fmt: skip
    faster, _ = reading(json.dumps(session), name="w.json", rate_scale=4.0)
    assert [item.follows for item in faster] == [item.follows for item in found]
    assert faster[-1].arrival_s == found[-1].arrival_s / 4


def span(trace: str, begin: int, end: int | None) -> dict[str, object]:
    found = {
        "traceId": trace, "spanId": f"{begin}", "startTimeUnixNano": str(begin * 10**9),
        "attributes": {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5},
    }  # fmt: skip
    return found if end is None else {**found, "endTimeUnixNano": str(end * 10**9)}


def test_spans_of_a_trace_follow_each_other(reading) -> None:
    lines = [span("t", 100, 103), span("t", 104, 110), span("u", 105, None), span("t", 111, 90)]
    found, _ = reading("\n".join(map(json.dumps, lines)), name="spans.jsonl")
    assert [item.follows for item in found] == [
        None, ("000000", pytest.approx(1.0)), None, ("000001", pytest.approx(1.0)),
    ]  # fmt: skip


def round_of(session: str, sent: str, *parts: str) -> dict[str, object]:
    events = [{"event_type": "user_message", "timestamp": sent}]
    events += [{"event_type": "tool_call", "timestamp": part} for part in parts]
    return {"session_id": session, "input_tokens_total": 10, "output_tokens": 5, "timing_events": events}


def test_rounds_follow_the_last_part_of_an_answer(reading) -> None:
    day = "2026-06-01T05:40:"
    lines = [
        round_of("s", f"{day}20Z", f"{day}25Z", f"{day}29.5Z"),
        round_of("s", f"{day}30Z"),
        round_of("s", f"{day}41Z"),
    ]
    found, _ = reading("\n".join(map(json.dumps, lines)))
    assert [item.follows for item in found] == [
        None, ("000000", pytest.approx(0.5)), ("000000", pytest.approx(11.5)),
    ]  # fmt: skip


def test_a_delay_counts_from_the_answer_and_survives_writing(reading) -> None:
    lines = [
        {"timestamp": 0, "session_id": "a", "input_length": 600, "output_length": 2, "hash_ids": [1, 2]},
        {"delay": 1500, "session_id": "a", "input_length": 700, "output_length": 2, "hash_ids": [1, 3]},
        {"delay": 500, "session_id": "a", "input_length": 800, "output_length": 2, "hash_ids": [1, 4]},
    ]
    found, trace = reading("\n".join(map(json.dumps, lines)))
    assert [item.follows for item in found] == [None, ("000000", 1.5), ("000001", 0.5)]
    assert [item.arrival_s for item in found] == [0.0, 1.5, 2.0]
    assert any("workload.turns: answered" in note for note in trace.report.notes)
    text = io.StringIO()
    assert not writer("mooncake")(found, text)
    again, _ = reading(text.getvalue())
    assert [item.follows for item in again] == [item.follows for item in found]
    exact = io.StringIO()
    assert not writer("tokens")(found, exact)
    again, _ = reading(exact.getvalue(), name="tokens.jsonl")
    assert [item.follows for item in again] == [item.follows for item in found]
    assert "whose answer 2 turns waited for is not kept" in writer("csv")(found, io.StringIO())


def test_without_a_rate_conversations_come_whole_from_the_start() -> None:
    found = list(synthesize("chat", 100, None, 3))
    names = [item.session for item in found]
    assert names == sorted(names, key=names.index)  # each in one piece
    assert all(item.arrival_s == 0.0 for item in found if item.follows is None)
    with_rate = {item.id: item for item in synthesize("chat", 400, 5.0, 3)}
    first = [item for item in with_rate.values() if item.session == "s0"]
    ours = [item for item in found if item.session == "s0"]
    assert [item.prompt_tokens for item in first] == [item.prompt_tokens for item in ours][: len(first)]
    assert {item.arrival_s for item in synthesize("fixed", 10, None, 3)} == {0.0}


def test_synthetic_turns_follow_the_turn_before_after_its_think_time() -> None:
    found = {item.id: item for item in synthesize("chat", 400, 5.0, 3)}
    later = [item for item in found.values() if item.follows is not None]
    assert len(later) > 50
    for item in later:
        assert item.follows is not None
        before, think_s = found[item.follows[0]], item.follows[1]
        assert before.session == item.session
        assert 0.0 < think_s < item.arrival_s - before.arrival_s
    assert all(item.follows is None for item in synthesize("fixed", 10, 5.0, 3))
