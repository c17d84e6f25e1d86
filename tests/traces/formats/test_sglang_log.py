"""Request logs of SGLang servers: who came when, how long they and their answers were, who never was answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvplan.errors import DataError

SERVER = (
    "[2026-01-10 09:59:00] server_args=ServerArgs(model_path='m')\n[2026-01-10 10:00:05 TP0] Decode batch\n"
)


def received(rid: str, second: int, text: str = "hi") -> str:
    return (
        f"[2026-01-10 10:00:{second:02d}] Receive: obj=GenerateReqInput(rid='{rid}', text={text!r}, "
        "sampling_params={'max_new_tokens': 100})\n"
    )


def finished(rid: str, second: int, prompt: int = 100, text: str = "yo") -> str:
    about = {
        "id": rid, "finish_reason": {"type": "stop", "matched": 151645}, "prompt_tokens": prompt,
        "completion_tokens": 20, "cached_tokens": 64, "e2e_latency": 2.5,
    }  # fmt: skip
    out = {"text": text, "meta_info": about}
    return (
        f"[2026-01-10 10:00:{second:02d}] Finish: obj=GenerateReqInput(rid='{rid}', text='hi'), out={out!r}\n"
    )


def told(requests: list[Any]) -> list[tuple[float, int, int]]:
    return [(item.arrival_s, item.prompt_tokens, item.output_tokens) for item in requests]


def test_requests_arrive_when_they_are_received(reading) -> None:
    log = SERVER + received("a", 10) + received("b", 11) + finished("b", 14, 7) + finished("a", 18, 9)
    requests, trace = reading(log, "server.log")
    assert trace.format == "sglang"
    assert told(requests) == [(0.0, 9, 20), (1.0, 7, 20)]
    assert "lines of the server that are of no request: 2" in trace.report.notes


def test_who_came_before_the_log_is_placed_by_how_long_it_took(reading) -> None:
    requests, trace = reading(finished("a", 10) + received("b", 12) + finished("b", 15))
    assert [item.arrival_s for item in requests] == [0.0, 4.5]
    assert any("placed by how long they took: 1 requests" in note for note in trace.report.notes)


def test_who_is_not_finished_is_a_dropped_row(reading) -> None:
    log = (
        received("a", 10)
        + received("b", 11)
        + finished("a", 12)
        + "[2026-01-10 10:00:13] Finish: obj=X(rid='b')\n"
    )
    requests, trace = reading(received("c", 9) + log)
    assert len(requests) == 1
    reasons = {reason: entry.count for reason, entry in trace.report.dropped.items()}
    assert reasons == {"received, and not finished in this log": 1, "does not say how many tokens it had": 1}
    assert trace.report.dropped["received, and not finished in this log"].lines == [1]


def test_texts_of_clients_change_nothing(reading) -> None:
    """They may hold ids, lengths and whole lines of a log."""
    quoted = "rid='z' 'meta_info': {'id': 'q', 'prompt_tokens': 5, 'completion_tokens': 6}"
    log = "".join(received(name, second, quoted) for name, second in (("a", 10), ("b", 12)))
    log += finished("a", 14, 7, quoted) + finished("b", 15, 9, quoted)
    requests, trace = reading(log)
    assert told(requests) == [(0.0, 7, 20), (2.0, 9, 20)]
    assert not trace.report.dropped


def test_as_json(reading) -> None:
    def event(name: str, rid: str, time: str, **more: Any) -> str:
        stamp = f"2026-01-10T10:00:{time}"
        return (
            json.dumps({"timestamp": stamp, "event": f"request.{name}", "rid": rid, "obj": {}, **more}) + "\n"
        )

    about = {"id": "a", "prompt_tokens": 100, "completion_tokens": 20}
    log = event("received", "a", "00.250000") + event("received", "b", "00.750000")
    log += event("finished", "b", "01.500000", out={"meta_info": {**about, "id": "b"}})
    log += event("finished", "a", "02.500000", out={"meta_info": about})
    for text in (SERVER + log, log, log.replace('": ', '":')):
        requests, _ = reading(text)
        assert told(requests) == [(0.0, 100, 20), (0.5, 100, 20)]


def test_a_log_of_requests_without_lengths_is_refused(reading) -> None:
    with pytest.raises(DataError, match="does not say how many tokens it had"):
        reading("[2026-01-10 10:00:13] Finish: obj=GenerateReqInput(rid='b')\n")


def test_vllms_request_log_is_named_with_what_has_lengths(reading) -> None:
    line = "INFO 11-20 09:00:00 [logger.py:43] Received request cmpl-1: prompt: 'hi', params: SamplingParams(n=1)\n"
    with pytest.raises(DataError, match="vLLM's request log") as refused:
        reading(line)
    assert "--otlp-traces-endpoint" in (refused.value.hint or "")


def _finished(said: str, time: str = "2026-01-10T10:00:00.000000") -> str:
    return (
        f'{{"timestamp": "{time}", "event": "request.finished", "rid": "a", "obj": {{}}, '
        f'"out": {{"meta_info": {{{said}}}}}}}\n'
    )


@pytest.mark.parametrize(
    "said",
    [
        '"prompt_tokens": 1e300, "completion_tokens": 5, "e2e_latency": 1.0',
        '"prompt_tokens": 5.5, "completion_tokens": 5, "e2e_latency": 1.0',
        '"prompt_tokens": "5", "completion_tokens": 5, "e2e_latency": 1.0',
        '"prompt_tokens": -5, "completion_tokens": 5, "e2e_latency": 1.0',
    ],
)
def test_counts_that_are_none_are_dropped(reading, said):
    good = _finished('"prompt_tokens": 5, "completion_tokens": 5, "e2e_latency": 1.0')
    requests, trace = reading(good + _finished(said), "log")
    assert len(requests) == 1
    assert trace.report.dropped_rows == 1


def test_answers_that_took_longer_than_any_are_placed_where_they_ended(reading):
    said = '"prompt_tokens": 5, "completion_tokens": 5, "e2e_latency": %s'
    requests, _ = reading(_finished(said % "1e308") + _finished(said % "0.0"), "log")
    assert [item.arrival_s for item in requests] == [0.0, 0.0]


@pytest.mark.parametrize(
    "line",
    [
        "[2026-13-99 10:00:00] Finish: obj=GenerateReqInput(rid='a'), out={}\n",
        "[2026-01-10 99:99:99] Receive: obj=GenerateReqInput(rid='a')\n",
        '{"timestamp": "2026-01-10T10:00:00", "x": {"event": "request.received"}}\n',
        '{"timestamp": "9999-99-99T10:00:00", "event": "request.received", "rid": "a"}\n',
    ],
)
def test_lines_that_only_look_like_a_request_are_of_none(reading, line):
    good = _finished('"prompt_tokens": 5, "completion_tokens": 5, "e2e_latency": 1.0')
    requests, trace = reading(good + line, "log")
    assert len(requests) == 1
    assert trace.report.rows == len(requests) + trace.report.dropped_rows
