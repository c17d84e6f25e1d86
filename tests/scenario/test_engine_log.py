"""Serving runs as they are logged: several namings and shapes, and what is wrong with a file, by line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kvplan.engine.recorder import RequestRow
from kvplan.errors import DataError, UsageError
from kvplan.scenario.engine_log import FEWEST
from tests.scenario.engine_logs import read_engine_log

HEADER = "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s"


def written(tmp_path: Path, text: str, name: str = "log.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(count: int = FEWEST) -> list[str]:
    return [f"{100 + index / 10},{200 + index},20,0.05,0.25" for index in range(count)]


def bench(count: int = FEWEST, **changes: Any) -> dict[str, Any]:
    return {
        "request_rate": 10.0, "max_concurrency": None, "input_lens": [100 + i for i in range(count)],
        "output_lens": [5] * count, "ttfts": [0.05] * count, "itls": [[0.01] * 4] * count, "errors": [""] * count,
        "start_times": [7.0 + i / 10 for i in range(count)],
    } | changes  # fmt: skip


def test_a_csv_is_read_sorted_and_starts_at_zero(tmp_path: Path) -> None:
    log = read_engine_log(written(tmp_path, "\n".join([HEADER, *reversed(lines())])))
    assert log.format == "csv"
    assert log.rows[0].arrival_s == 0.0
    assert log.rows[1].arrival_s == pytest.approx(0.1)
    assert [row.prompt_tokens for row in log.rows] == [200 + index for index in range(FEWEST)]
    assert log.rows[0].tpot_s == pytest.approx(0.2 / 19)
    assert log.rows[0].cached_tokens is None


@pytest.mark.parametrize("times", [2, 3])
def test_a_log_that_is_in_its_file_several_times_is_read_once(tmp_path: Path, times: int) -> None:
    log = read_engine_log(written(tmp_path, "\n".join([HEADER, *lines() * times])))
    assert len(log.rows) == FEWEST
    assert log.notes == (
        f"every request is in the log {times} times, with the same times: each is counted once",
    )


def test_requests_alike_are_kept_where_others_are_single(tmp_path: Path) -> None:
    log = read_engine_log(written(tmp_path, "\n".join([HEADER, *lines(), *lines()[:-1]])))
    assert len(log.rows) == 2 * FEWEST - 1
    assert log.notes == ()
    # A burst of requests alike, answered alike.
    log = read_engine_log(written(tmp_path, "\n".join([HEADER, *lines(4) * 20])))
    assert len(log.rows) == 80


@pytest.mark.parametrize(
    "header",
    [
        "request_time,input_len,completion_tokens,ttft_ms,latency_ms",
        "timestamp_ms,isl,osl,time_to_first_token_ms,e2el_ms",
        "Start_Time, Input_Tokens ,Output_Len,TTFT_us,E2E_Latency_us",
    ],
)
def test_other_names_and_units_mean_the_same(tmp_path: Path, header: str) -> None:
    arrival, scale = (1e3 if "timestamp_ms" in header else 1.0), (1e6 if "us" in header else 1e3)
    rows = [f"{arrival * index},{200 + index},20,{0.05 * scale},{0.25 * scale}" for index in range(FEWEST)]
    log = read_engine_log(written(tmp_path, "\n".join([header, *rows])))
    assert log.rows[1].arrival_s == pytest.approx(1.0)
    assert (log.rows[0].ttft_s, log.rows[0].e2e_s) == (pytest.approx(0.05), pytest.approx(0.25))


def test_a_benchmark_with_a_limit_is_sent_in_turn_where_nobody_says_when(tmp_path: Path) -> None:
    slow = bench(
        start_times=None, max_concurrency=2, request_rate="inf",
        ttfts=[0.1 if index % 2 else 0.3 for index in range(FEWEST)], itls=[[0.05] * 4] * FEWEST,
    )  # fmt: skip
    log = read_engine_log(written(tmp_path, json.dumps(slow)))
    assert log.max_in_flight == 2
    assert any("sent in turn, 2 in flight" in note for note in log.notes)
    # 0.5 s and 0.3 s in two lanes: each is sent when the earlier of the two before it is finished.
    assert [row.arrival_s for row in log.rows[:5]] == pytest.approx([0.0, 0.0, 0.3, 0.5, 0.8])
    for row in log.rows:
        alive = [o for o in log.rows if o.arrival_s <= row.arrival_s < o.arrival_s + o.e2e_s - 1e-9]
        assert len(alive) <= 2


def test_a_benchmarks_own_limit_is_known_and_the_users_counts(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(bench(max_concurrency=4)))
    assert read_engine_log(path).max_in_flight == 4
    assert read_engine_log(path, 0).max_in_flight == 0
    assert read_engine_log(path, 9).max_in_flight == 9
    assert read_engine_log(written(tmp_path, json.dumps(bench()))).max_in_flight is None
    with pytest.raises(UsageError, match="-1 requests in flight"):
        read_engine_log(path, -1)


def test_vllm_and_sglang_results(tmp_path: Path) -> None:
    vllm = read_engine_log(written(tmp_path, json.dumps(bench()), "v.json"))
    assert vllm.format == "vllm-bench"
    assert vllm.rows[2].arrival_s == pytest.approx(0.2)
    assert vllm.rows[0].e2e_s == pytest.approx(0.09)
    without = bench()
    del without["start_times"]
    drawn = read_engine_log(written(tmp_path, json.dumps(without) + "\n", "s.jsonl"))
    assert drawn.format == "sglang-bench"
    assert "drawn at 10 requests/s" in drawn.notes[0]
    mean = drawn.rows[-1].arrival_s / (FEWEST - 1)
    assert 0.05 < mean < 0.2
    at_once = read_engine_log(
        written(tmp_path, json.dumps(without | {"request_rate": float("inf")}), "i.jsonl")
    )
    assert {row.arrival_s for row in at_once.rows} == {0.0}


def test_failed_requests_are_left_out_and_counted(tmp_path: Path) -> None:
    document = bench(FEWEST + 2)
    document["errors"][0], document["output_lens"][1] = "timeout", 0
    log = read_engine_log(written(tmp_path, json.dumps(document), "v.json"))
    assert len(log.rows) == FEWEST
    assert "2 failed requests" in log.notes[0]


@pytest.mark.parametrize("nothing", [None, 0.0])
@pytest.mark.parametrize("limit", [None, 4])
def test_who_got_no_first_token_failed_whatever_its_output(
    tmp_path: Path, nothing: float | None, limit: int | None
) -> None:
    document = bench(FEWEST + 1, max_concurrency=limit)
    document["ttfts"][3], document["itls"][3] = nothing, []
    if limit:
        del document["start_times"]
    log = read_engine_log(written(tmp_path, json.dumps(document), "v.json"))
    assert len(log.rows) == FEWEST
    assert any("1 failed requests" in note for note in log.notes)


def test_a_benchmark_in_milliseconds_is_refused(tmp_path: Path) -> None:
    document = bench(ttfts=[50.0] * FEWEST, itls=[[1200.0] * 4] * FEWEST)
    with pytest.raises(DataError, match=r"takes 1.2e\+03 s in the median"):
        read_engine_log(written(tmp_path, json.dumps(document), "v.json"))


def test_a_list_of_one_run_is_that_run_and_says_its_model(tmp_path: Path) -> None:
    log = read_engine_log(written(tmp_path, json.dumps([bench(model_id="org/some-model")]), "v.json"))
    assert (log.format, log.model, len(log.rows)) == ("vllm-bench", "org/some-model", FEWEST)
    assert read_engine_log(written(tmp_path, json.dumps(bench(model_id=7)), "w.json")).model is None


@pytest.mark.parametrize(
    ("broken", "where", "message"),
    [
        ("100,5,20,x,0.2", "log.csv:6", "ttft_s is 'x', not a number"),
        ("100,5,20,inf,0.2", "log.csv:6", "not a finite number"),
        ("100,5,20,-1,0.2", "log.csv:6", "not a finite number >= 0"),
        ("100,5,20,0.5,0.2", "log.csv:6", "not after the last"),
        ("100,0,20,0.1,0.2", "log.csv:6", "prompt_tokens is 0"),
        ("100,5.5,20,0.1,0.2", "log.csv:6", "whole number"),
        ("100,5", "log.csv:6", "2 cells under a header of 5"),
        ("100,5,,0.1,0.2", "log.csv:6", "output_tokens is ''"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, broken: str, where: str, message: str) -> None:
    rows = lines()
    rows.insert(4, broken)
    with pytest.raises(DataError, match=message) as caught:
        read_engine_log(written(tmp_path, "\n".join([HEADER, *rows])))
    assert str(caught.value.where).endswith(where)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("arrival_s,prompt_tokens,output_tokens,e2e_s\n", "no column for ttft"),
        ("\n".join([HEADER, *lines(FEWEST - 1)]), "too few"),
        ("{", "not JSON"),
        ('{"ttfts": [-Infinity]}', "not JSON"),
        (json.dumps({"ttfts": []}), "no list 'input_lens'"),
        (json.dumps(bench(itls=[])), "different lengths"),
        (json.dumps(bench(start_times=[1.0])), "1 start_times"),
        (json.dumps(bench(start_times=None, ramp_up_strategy="linear")), "the rate rose during the run"),
        (json.dumps(bench(start_times=None, request_rate="trace")), "rate 'trace'"),
        (json.dumps(bench(start_times=None, burstiness=-1.0)), "burstiness -1.0"),
        (json.dumps(bench(max_concurrency=0)), "max_concurrency is 0"),
        (
            json.dumps(bench(start_times=None, max_concurrency=2, request_rate="inf", itls=[["x"]] * FEWEST)),
            "not a number",
        ),
        (
            "\n".join([HEADER + ",cached_tokens", *(line + ",9999" for line in lines())]),
            "cached_tokens is 9999",
        ),
        (
            "\n".join([HEADER + ",cached_tokens", *(line + ",1.5" for line in lines())]),
            "cached_tokens is 1.5",
        ),
        (json.dumps(bench(start_times=None, request_rate=None)), "neither start_times nor request_rate"),
        (json.dumps(bench(ttfts=["a"] * FEWEST)), "not a number"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_engine_log(written(tmp_path, text))


def test_binary_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\x00PAR1")
    with pytest.raises(DataError, match="UTF-8"):
        read_engine_log(path)


def table(header: str, *rows: str) -> str:
    return "\n".join([header, *rows])


def test_a_european_spreadsheet_is_read(tmp_path: Path) -> None:
    rows = [f"{index};{200 + index};20;0,05;0,25" for index in range(FEWEST)]
    log = read_engine_log(written(tmp_path, table(HEADER.replace(",", ";"), *rows)))
    assert (log.rows[3].arrival_s, log.rows[3].ttft_s) == (3.0, 0.05)
    tabs = [line.replace(",", "\t") for line in lines()]
    assert read_engine_log(written(tmp_path, table(HEADER.replace(",", "\t"), *tabs))).rows[0].e2e_s == 0.25


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        (lambda i: f"2026-11-21T08:00:{i:02d}Z", None),
        (lambda i: f"2026-11-21 08:00:{i:02d}.000", None),
        (lambda i: str(1_795_000_000 + i), None),
        (lambda i: str((1_795_000_000 + i) * 10**3), "milliseconds since 1970"),
        (lambda i: str((1_795_000_000 + i) * 10**6), "microseconds since 1970"),
        (lambda i: str((1_795_000_000 + i) * 10**9), "nanoseconds since 1970"),
    ],
)
def test_moments_are_read_as_they_are_written(tmp_path: Path, moment: Any, said: str | None) -> None:
    rows = [f"{moment(index)},200,20,0.05,0.25" for index in range(FEWEST)]
    log = read_engine_log(written(tmp_path, table("timestamp,isl,osl,ttft_s,e2e_s", *rows)))
    assert log.rows[7].arrival_s == pytest.approx(7.0, abs=1e-6)
    assert [text for text in log.notes if "1970" in text] == (
        [f"timestamp is taken to be in {said}"] if said else []
    )


def test_what_is_missing_follows_from_the_rest(tmp_path: Path) -> None:
    by_gap = [f"{index},200,20,50,10" for index in range(FEWEST)]
    log = read_engine_log(written(tmp_path, table("start,isl,osl,ttft_ms,tpot_ms", *by_gap)))
    assert log.rows[0].e2e_s == pytest.approx(0.05 + 19 * 0.01)
    moments = [f"{index},{index + 0.05},{index + 0.25},200,20" for index in range(FEWEST)]
    header = "queued_ts,first_token_ts,last_token_ts,num_prompt_tokens,num_generation_tokens"
    log = read_engine_log(written(tmp_path, table(header, *moments)))
    assert (log.rows[5].ttft_s, log.rows[5].e2e_s) == (pytest.approx(0.05), pytest.approx(0.25))


def test_the_rows_of_a_simulation_are_a_log(tmp_path: Path) -> None:
    header = ",".join(RequestRow._fields)
    rows = [f"r{i},{i / 10},{i / 10},{i / 10 + 0.05},{i / 10 + 0.25},{200 + i},20,0,0" for i in range(FEWEST)]
    log = read_engine_log(written(tmp_path, table(header, *rows)))
    assert (log.rows[0].ttft_s, log.rows[0].e2e_s) == (pytest.approx(0.05), pytest.approx(0.25))
    assert log.rows[0].cached_tokens == 0


@pytest.mark.parametrize(
    ("column", "bad", "good"),
    [
        ("success", "False", "True"),
        ("status", "500", "200"),
        ("error", "timed out", ""),
        ("ok", "0", "1"),
        ("failed", "True", "False"),
        ("is_error", "1", "0"),
        ("timed_out", "yes", "no"),
    ],
)
def test_rows_that_say_they_failed_are_left_out_and_counted(
    tmp_path: Path, column: str, bad: str, good: str
) -> None:
    rows = [f"{line},{good}" for line in lines()] + [f"200,10,,,,{bad}", f"201,10,0,0,0,{bad}"]
    log = read_engine_log(written(tmp_path, table(f"{HEADER},{column}", *rows)))
    assert len(log.rows) == FEWEST
    assert log.notes == ("2 failed requests are left out; they loaded the engine all the same",)


def test_requests_as_json_objects(tmp_path: Path) -> None:
    rows = [
        {"Start_Time": index, "prompt_tokens": 200, "output_tokens": 20, "ttft": 0.05, "latency": 0.25,
         "error": None, "text": "x"}
        for index in range(FEWEST)
    ]  # fmt: skip
    for text in (json.dumps(rows), "\n".join(map(json.dumps, rows))):
        log = read_engine_log(written(tmp_path, text))
        assert log.format == "json"
        assert log.rows[2].arrival_s == 2.0
    with pytest.raises(DataError, match="prompt_tokens is None") as caught:
        read_engine_log(written(tmp_path, json.dumps([*rows, {**rows[0], "prompt_tokens": None}])))
    left = read_engine_log(written(tmp_path, json.dumps([*rows, {**rows[0], "latency": None}])))
    assert "1 requests without a latency" in left.notes[0]
    assert str(caught.value.where).endswith(f"request {FEWEST}")


@pytest.mark.parametrize(
    ("header", "scale", "message"),
    [
        ("start,isl,osl,ttft,e2e", 1e3, "an output token takes 10.5 s in the median, too long"),
        ("start,isl,osl,ttft_ms,e2e_ms", 1.0, "an output token takes 1.05e-05 s in the median, too short"),
    ],
)
def test_times_in_another_unit_than_they_say_are_refused(
    tmp_path: Path, header: str, scale: float, message: str
) -> None:
    rows = [f"{index},200,20,{0.05 * scale},{0.25 * scale}" for index in range(FEWEST)]
    with pytest.raises(DataError, match=message) as caught:
        read_engine_log(written(tmp_path, table(header, *rows)))
    assert "say the unit" in str(caught.value.hint)


def test_requests_that_warmed_the_engine_up_are_left_out_and_said(tmp_path: Path) -> None:
    slow = ["90,200,20,4.0,5.0", "91,200,20,0.06,0.3", "92,200,20,2.0,3.0"]
    log = read_engine_log(written(tmp_path, table(HEADER, *slow, *lines(80))))
    assert len(log.rows) == 80
    assert "the first 3 requests are left out" in log.notes[0]
    # A queue that builds up at once is no warm-up, and neither is a slow request later on.
    burst = [f"0,200,20,{0.05 + 0.05 * index},{0.3 + 0.05 * index}" for index in range(80)]
    assert len(read_engine_log(written(tmp_path, table(HEADER, *burst))).rows) == 80
    late = [*lines(80), "200,200,20,4.0,5.0"]
    assert len(read_engine_log(written(tmp_path, table(HEADER, *late))).rows) == 81


def test_a_summary_without_requests_says_how_to_get_them(tmp_path: Path) -> None:
    summary = {"mean_ttft_ms": 40.0, "median_tpot_ms": 9.0, "request_throughput": 8.0, "completed": 500}
    with pytest.raises(DataError, match="no list 'input_lens'") as caught:
        read_engine_log(written(tmp_path, json.dumps(summary)))
    assert "--save-detailed" in str(caught.value.hint)


def test_lines_that_are_neither_requests_nor_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither requests nor runs"):
        read_engine_log(written(tmp_path, '{"a": 1}\n[1, 2]\n'))
    with pytest.raises(DataError, match="is no object"):
        read_engine_log(written(tmp_path, "[1, 2]"))


def test_gaps_are_drawn_as_benchmarks_draw_them(tmp_path: Path) -> None:
    count = 400
    for burstiness, spread in ((1.0, 1.0), (0.25, 2.0), (16.0, 0.25), (float("inf"), 0.0)):
        document = bench(count, start_times=None, request_rate=5.0, burstiness=burstiness)
        rows = read_engine_log(written(tmp_path, json.dumps(document))).rows
        gaps = [b.arrival_s - a.arrival_s for a, b in pairwise(rows)]
        # Stretched so that all are sent in the time the rate asks for.
        assert sum(gaps) == pytest.approx(count / 5.0, rel=0.05)
        mean = sum(gaps) / len(gaps)
        assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean == pytest.approx(
            spread, rel=0.25, abs=1e-9
        )


def test_a_rate_and_a_limit_together_are_both_kept(tmp_path: Path) -> None:
    document = bench(
        200,
        start_times=None,
        request_rate=10.0,
        max_concurrency=3,
        ttfts=[0.2] * 200,
        itls=[[0.05] * 4] * 200,
    )
    log = read_engine_log(written(tmp_path, json.dumps(document)))
    assert log.max_in_flight == 3
    assert any("drawn at 10 requests/s" in note for note in log.notes)
    alive = [
        sum(o.arrival_s <= row.arrival_s < o.arrival_s + o.e2e_s - 1e-9 for o in log.rows) for row in log.rows
    ]
    assert max(alive) == 3
    # Three at 0.4 s each are 7.5 a second, less than the rate: the limit is what paces.
    assert log.rows[-1].arrival_s == pytest.approx(199 / 7.5, rel=0.05)
    seldom = bench(200, start_times=None, request_rate=1.0, max_concurrency=50)
    assert read_engine_log(written(tmp_path, json.dumps(seldom))).rows[-1].arrival_s == pytest.approx(
        200, rel=0.05
    )


def vllm_file(count: int = 60) -> dict[str, Any]:
    """Fields of ``vllm bench serve --save-result --save-detailed``, with two requests that failed."""
    document = {
        "date": "20261121-080000", "endpoint_type": "openai", "backend": "openai", "label": None,
        "model_id": "m", "tokenizer_id": "m", "num_prompts": count, "request_rate": 4.0, "burstiness": 1.0,
        "max_concurrency": None, "duration": 20.0, "completed": count - 2, "failed": 2, "total_input_tokens": 1,
        "total_output_tokens": 1, "request_throughput": 4.0, "request_goodput": None, "output_throughput": 1.0,
        "input_lens": [200 + i for i in range(count)], "output_lens": [9] * count, "ttfts": [0.05] * count,
        # Several tokens may come in one piece: fewer gaps than tokens.
        "itls": [[0.02] * 4] * count, "start_times": [81234.5 + i / 4 for i in range(count)],
        "generated_texts": ["x"] * count, "errors": [""] * count, "mean_ttft_ms": 50.0, "median_ttft_ms": 50.0,
    }  # fmt: skip
    for index in (7, 30):
        document["output_lens"][index], document["ttfts"][index] = 0, 0.0
        document["itls"][index], document["errors"][index] = [], "Traceback: ClientPayloadError"
    return document


def test_a_file_of_vllm_bench_serve(tmp_path: Path) -> None:
    log = read_engine_log(written(tmp_path, json.dumps(vllm_file()), "v.json"))
    assert (log.format, len(log.rows)) == ("vllm-bench", 58)
    assert log.rows[0].tpot_s == pytest.approx(0.08 / 8)
    assert log.rows[1].arrival_s == pytest.approx(0.25)
    summary = {k: v for k, v in vllm_file().items() if not isinstance(v, list)}
    with pytest.raises(DataError, match="no list 'input_lens'"):
        read_engine_log(written(tmp_path, json.dumps(summary), "s.json"))


def test_a_line_of_sglang_bench_serving(tmp_path: Path) -> None:
    count = 60
    line = {
        "tag": None, "backend": "sglang-oai", "dataset_name": "random", "request_rate": math.inf,
        "max_concurrency": 16, "sharegpt_output_len": None, "random_input_len": 1024, "random_output_len": 128,
        "random_range_ratio": 1.0, "server_info": {"tp_size": 1}, "duration": 12.5, "completed": count,
        "total_input_tokens": 1, "total_output_tokens": 1, "mean_ttft_ms": 50.0, "accept_length": None,
        "input_lens": [300] * count, "output_lens": [5] * count, "ttfts": [0.1] * count,
        "itls": [[0.025] * 4] * count, "generated_texts": ["x"] * count, "errors": [""] * count,
    }  # fmt: skip
    log = read_engine_log(written(tmp_path, json.dumps(line) + "\n", "s.jsonl"))
    assert (log.format, log.max_in_flight) == ("sglang-bench", 16)
    # Rounds of sixteen at 0.2 s each.
    assert log.rows[-1].arrival_s == pytest.approx(0.2 * ((count - 1) // 16))


def aiperf_line(index: int, **changes: Any) -> dict[str, Any]:
    start = 1_795_000_000_000_000_000 + index * 250_000_000
    record: dict[str, Any] = {
        "metadata": {
            "session_num": index, "x_request_id": "r", "conversation_id": "c", "turn_index": 0,
            "request_start_ns": start, "request_ack_ns": start + 10, "request_end_ns": start + 10**9,
            "worker_id": "w", "benchmark_phase": "profiling", "was_cancelled": False, "cancellation_time_ns": None,
        },
        "metrics": {
            "input_sequence_length": {"value": 550, "unit": "tokens"},
            "time_to_first_token": {"value": 50.0, "unit": "ms"},
            "request_latency": {"value": 250_000.0, "unit": "us"},
            "output_token_count": {"value": 15, "unit": "tokens"},
            "output_sequence_length": {"value": 21, "unit": "tokens"},
            "inter_chunk_latency": {"value": [10.0, 10.0], "unit": "ms"},
        },
        "error": None,
    }  # fmt: skip
    return record | changes


def test_an_export_of_aiperf(tmp_path: Path) -> None:
    lines = [aiperf_line(index) for index in range(FEWEST + 3)]
    lines[3] = aiperf_line(
        3, metrics={"error_isl": {"value": 5}}, error={"code": 499, "type": "x", "message": "y"}
    )
    lines[5]["metadata"]["was_cancelled"] = True
    lines[0]["metadata"]["benchmark_phase"] = "warmup"
    log = read_engine_log(written(tmp_path, "\n".join(map(json.dumps, lines)), "profile_export.jsonl"))
    assert (log.format, len(log.rows)) == ("aiperf", FEWEST)
    assert log.notes == (
        "2 failed requests are left out; they loaded the engine all the same",
        "1 requests of the warm-up are left out",
    )
    row = log.rows[0]
    assert (row.prompt_tokens, row.output_tokens, row.cached_tokens) == (550, 21, None)
    assert (row.ttft_s, row.e2e_s) == (pytest.approx(0.05), pytest.approx(0.25))
    assert log.rows[1].arrival_s == pytest.approx(0.25)
    for index, line in enumerate(lines):
        if line["error"] is None:
            line["metrics"]["usage_prompt_cache_read_tokens"] = {"value": 16 * (index % 3), "unit": "tokens"}
    again = read_engine_log(written(tmp_path, json.dumps(lines), "list.json"))
    assert {row.cached_tokens for row in again.rows} == {0, 16, 32}


@pytest.mark.parametrize(
    ("metric", "value", "message"),
    [
        ("time_to_first_token", None, "has no time_to_first_token"),
        ("time_to_first_token", {"value": 5.0, "unit": "tokens"}, "is in 'tokens', not a unit of time"),
        ("request_latency", {"value": [1.0], "unit": "ms"}, r"request_latency is \[1.0\], not a number"),
        ("input_sequence_length", {"value": 0, "unit": "tokens"}, "prompt_tokens is 0"),
    ],
)
def test_a_bad_export_is_refused_with_its_request(
    tmp_path: Path, metric: str, value: Any, message: str
) -> None:
    lines = [aiperf_line(index) for index in range(FEWEST)]
    lines[2]["metrics"][metric] = value
    with pytest.raises(DataError, match=message) as caught:
        read_engine_log(written(tmp_path, "\n".join(map(json.dumps, lines))))
    assert str(caught.value.where).endswith("request 2")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"time_to_first_token": {"avg": 50.0, "unit": "ms"}, "request_throughput": {"avg": 4}}, "is a summary"),
        (
            {"service_kind": "openai", "endpoint": "v1/chat", "experiments": [
                {"experiment": {"mode": "concurrency", "value": 10}, "requests": [
                    {"timestamp": 1, "response_timestamps": [3, 5], "response_outputs": ["a", "b"]}]}]},
            "texts and moments",
        ),
    ],
)  # fmt: skip
def test_what_benchmarks_write_beside_the_requests_is_refused_by_name(
    tmp_path: Path, document: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_engine_log(written(tmp_path, json.dumps(document)))
    assert "profile_export.jsonl" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("header", "scale"),
    [
        ("Start Time,Input Tokens,Output Tokens,TTFT (ms),E2E Latency (ms)", 1e3),
        ("arrivalTime,promptTokens,completionTokens,timeToFirstTokenMs,latencyMs", 1e3),
        ("start_ts,num_input_tokens,num_output_tokens,ttft [s],total_latency [s]", 1.0),
        ("sent_at,prompt_length,output_length,ttft_usec,e2e_usec", 1e6),
    ],
)
def test_names_as_spreadsheets_and_scripts_write_them(tmp_path: Path, header: str, scale: float) -> None:
    rows = [f"{index},{200 + index},20,{0.05 * scale},{0.25 * scale}" for index in range(FEWEST)]
    log = read_engine_log(written(tmp_path, table(header, *rows)))
    assert (log.rows[3].ttft_s, log.rows[3].e2e_s) == (pytest.approx(0.05), pytest.approx(0.25))


def test_requests_without_a_token_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*lines(), "200,10,0,0,0", "201,10,0,,", "202,10,0.0,nan,1"]
    log = read_engine_log(written(tmp_path, table(HEADER, *rows)))
    assert len(log.rows) == FEWEST
    assert "3 requests without an output token are left out" in log.notes[0]


def test_moments_do_not_depend_on_where_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through an hour that daylight saving leaves out, and with offsets that differ."""
    plain = [f"2026-03-29T{hour:02d}:{minute:02d}:00" for hour in (0, 1, 2, 3) for minute in range(0, 60, 5)]
    zones = ["2026-11-21T10:00:00+02:00", "2026-11-21T08:00:10.123456789Z", "2026-11-21T03:00:20-05:00"]
    for zone in ("UTC", "Europe/Berlin", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        rows = [f"{moment},200,20,0.05,0.25" for moment in plain]
        log = read_engine_log(written(tmp_path, table("timestamp,isl,osl,ttft_s,e2e_s", *rows)))
        assert [row.arrival_s for row in log.rows] == [300.0 * index for index in range(len(plain))]
        rows = [f"{zones[index]},200,20,0.05,0.25" for index in range(3)]
        rows += [f"2026-11-21T09:{index:02d}:00Z,200,20,0.05,0.25" for index in range(FEWEST)]
        log = read_engine_log(written(tmp_path, table("timestamp,isl,osl,ttft_s,e2e_s", *rows)))
        assert [row.arrival_s for row in log.rows[:4]] == pytest.approx(
            [0.0, 10.123456, 20.0, 3600.0], abs=1e-5
        )
    monkeypatch.undo()
    time.tzset()


def test_a_burst_at_the_start_is_a_queue_and_no_warm_up(tmp_path: Path) -> None:
    """A closed loop of 100 begins with 100 requests at once: the last of them wait longest."""
    burst = [f"0,2000,20,{0.08 + 0.02 * index},{4 + 0.02 * index}" for index in range(100)]
    steady = [f"{4 + index / 25},2000,20,0.05,4.0" for index in range(1900)]
    log = read_engine_log(written(tmp_path, table(HEADER, *burst, *steady)))
    assert len(log.rows) == 2000
    assert not any("left out" in note for note in log.notes)


@pytest.mark.parametrize(
    ("header", "factor", "message"),
    [
        ("timestamp,isl,osl,ttft_ms,e2e_ms", 1e3, "the engine was idle"),
        ("start,isl,osl,ttft_ms,e2e_ms", 1e9, "the engine was idle"),
        ("start_ms,isl,osl,ttft_ms,e2e_ms", 1e3, None),
        ("start_s,isl,osl,ttft_ms,e2e_ms", 1e3, None),
    ],
)
def test_arrivals_in_a_unit_that_nobody_says_are_not_guessed(
    tmp_path: Path, header: str, factor: float, message: str | None
) -> None:
    offset = 5000 if factor == 1e9 else 0  # a performance counter: no date in any unit
    rows = [f"{(offset + index / 4) * factor:.0f},200,20,50,250" for index in range(FEWEST)]
    path = written(tmp_path, table(header, *rows))
    if message is None:
        assert len(read_engine_log(path).rows) == FEWEST
        return
    with pytest.raises(DataError, match=message) as caught:
        read_engine_log(path)
    column = header.split(",")[0]
    assert f"{column}_ms" in str(caught.value.hint)


def test_a_busy_run_does_not_hide_arrivals_in_milliseconds(tmp_path: Path) -> None:
    """Forty requests in flight are 0.04 where milliseconds are taken for seconds: not idle enough to be told."""
    header = "start,isl,osl,ttft_ms,e2e_ms"
    rows = [f"{index * 100},200,100,50,4000" for index in range(FEWEST)]
    with pytest.raises(DataError, match="the engine was idle 95") as caught:
        read_engine_log(written(tmp_path, table(header, *rows)))
    assert "start_ms" in str(caught.value.hint)
    busy = [f"{index * 4},200,100,50,4000" for index in range(FEWEST)]
    assert read_engine_log(written(tmp_path, table(header, *busy))).rows[1].arrival_s == 4.0
    alike = "start,isl,osl,ttft,e2e"  # nothing beside them says milliseconds
    slow = [f"{index * 20},200,100,0.05,4.0" for index in range(FEWEST)]
    assert read_engine_log(written(tmp_path, table(alike, *slow))).rows[1].arrival_s == 20.0


def test_a_duration_without_a_unit_beside_others_in_milliseconds_is_refused(tmp_path: Path) -> None:
    rows = [f"{index},200,20,50,10" for index in range(FEWEST)]
    with pytest.raises(DataError, match="tpot_ms says its unit, and ttft does not: 50") as caught:
        read_engine_log(written(tmp_path, table("start,isl,osl,ttft,tpot_ms", *rows)))
    assert "ttft_ms or ttft_s" in str(caught.value.hint)
    seconds = [f"{index},200,20,0.05,10" for index in range(FEWEST)]
    assert read_engine_log(written(tmp_path, table("start,isl,osl,ttft,tpot_ms", *seconds))).rows


def test_a_server_that_logs_two_clocks_is_read_by_the_one_of_its_tokens(tmp_path: Path) -> None:
    rows = [
        {"request_id": f"r{i}", "input_toks": 100 + i, "output_toks": 20, "arrival_time": 1.7e9 + i / 5,
         "queued_ts": 5000 + i / 5, "scheduled_ts": 5000 + i / 5, "first_token_ts": 5000.05 + i / 5,
         "last_token_ts": 5000.25 + i / 5}
        for i in range(FEWEST)
    ]  # fmt: skip
    log = read_engine_log(written(tmp_path, "\n".join(map(json.dumps, rows)), "run.jsonl"))
    assert log.rows[3].ttft_s == pytest.approx(0.05)
    assert log.rows[3].e2e_s == pytest.approx(0.25)
    assert log.rows[3].arrival_s == pytest.approx(0.6)


@pytest.mark.parametrize("nothing", ["", "null", "NaN", "N/A"])
def test_requests_without_a_first_token_are_left_out_and_counted(tmp_path: Path, nothing: str) -> None:
    rows = [*lines(), f"130,100,1,{nothing},9.0", f"131,100,,{nothing},"]
    log = read_engine_log(written(tmp_path, table(HEADER, *rows)))
    assert len(log.rows) == FEWEST
    assert log.notes == ("2 requests without a ttft_s are left out; they loaded the engine all the same",)
    objects = [
        {"start": i / 5, "isl": 9, "osl": 20, "ttft": float("nan") if i == 3 else 0.05, "e2e": 0.25}
        for i in range(FEWEST + 1)
    ]
    assert len(read_engine_log(written(tmp_path, json.dumps(objects))).rows) == FEWEST


def test_commas_in_counts_part_thousands(tmp_path: Path) -> None:
    header = HEADER.replace(",", ";")
    rows = [f"{index};1,{200 + index};20;0.05;0.25" for index in range(FEWEST)]
    log = read_engine_log(written(tmp_path, table(header, *rows)))
    assert log.rows[5].prompt_tokens == 1205
    assert log.rows[5].ttft_s == 0.05
    milliseconds = "start_ms;isl;osl;ttft_ms;e2e_ms"
    rows = [f"{index * 100};8,000;20;1,050.5;1,250.5" for index in range(FEWEST)]
    log = read_engine_log(written(tmp_path, table(milliseconds, *rows)))
    assert (log.rows[0].prompt_tokens, log.rows[0].e2e_s) == (8000, pytest.approx(1.2505))
    decimal = [f"{index},5;66,000;20,000;0,050;0,250" for index in range(FEWEST)]
    log = read_engine_log(written(tmp_path, table(header, *decimal)))
    assert (log.rows[0].prompt_tokens, log.rows[0].e2e_s) == (66, 0.25)
    quoted = [f'{index},"1,200",20,0.05,0.25' for index in range(FEWEST)]
    assert read_engine_log(written(tmp_path, table(HEADER, *quoted))).rows[0].prompt_tokens == 1200


def test_a_list_of_requests_is_found_inside_a_report(tmp_path: Path) -> None:
    rows = [
        {"request_start_time": 1.7e9 + i, "request_latency": 0.25, "prompt_tokens": 99, "output_tokens": 20,
         "time_to_first_token_ms": 50.0}
        for i in range(FEWEST)
    ]  # fmt: skip
    lists = {
        "successful": rows,
        "incomplete": [{**rows[0], "time_to_first_token_ms": None}] * 3,
        "errored": [],
    }
    report = {"benchmarks": [{"args": {}, "requests": lists}]}
    log = read_engine_log(written(tmp_path, json.dumps(report), "g.json"))
    assert log.format == "json"
    assert len(log.rows) == FEWEST
    assert log.notes[0] == "3 requests listed as incomplete are left out"
    assert "the one list of requests in the file" in log.notes[1]


def test_blank_lines_at_the_start_are_passed_over_and_counted(tmp_path: Path) -> None:
    rows = lines()
    rows.insert(4, "100,0,20,0.1,0.2")
    with pytest.raises(DataError) as caught:
        read_engine_log(written(tmp_path, "\n\n" + table(HEADER, *rows)))
    assert str(caught.value.where).endswith("log.csv:8")


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    rows = [f"{line},0.9" for line in lines()]
    with pytest.raises(DataError, match="two columns ttft_s"):
        read_engine_log(written(tmp_path, table(f"{HEADER},TTFT (s)", *rows)))


def test_one_token_needs_no_time_per_token(tmp_path: Path) -> None:
    rows = [f"{index},200,20,50,10" for index in range(FEWEST)] + ["99,200,1,50,"]
    log = read_engine_log(written(tmp_path, table("start,isl,osl,ttft_ms,tpot_ms", *rows)))
    assert log.rows[-1].e2e_s == pytest.approx(0.05)


def test_arrivals_cut_to_seconds_are_drawn_within_them(tmp_path: Path) -> None:
    """Taken as they stand, six requests would queue for one another at the beginning of every second."""
    rows = [f"{100 + index // 6},{200 + index},20,0.05,0.25" for index in range(120)]
    path = written(tmp_path, table(HEADER, *rows))
    log = read_engine_log(path)
    assert log == read_engine_log(path)
    assert "arrivals are in whole seconds, 6 to one" in log.notes[0]
    gaps = [b.arrival_s - a.arrival_s for a, b in pairwise(log.rows)]
    assert min(gaps) > 0.0
    assert max(gaps) < 1.5
    assert sorted(row.prompt_tokens for row in log.rows) == [200 + index for index in range(120)]
    # Who waits for answers sent when they came.
    assert len({row.arrival_s for row in read_engine_log(path, 6).rows}) == 20


@pytest.mark.parametrize(
    "moment",
    [
        lambda index: 0,  # all at once
        lambda index: index,  # one a second
        lambda index: 3 * (index // 6),  # clumps, as a trace that is replayed has them
        lambda index: index // 6 + (0.5 if index == 7 else 0.0),  # a clock that knows halves
    ],
)
def test_other_arrivals_stay_where_they_are(tmp_path: Path, moment: Callable[[int], float]) -> None:
    rows = [f"{moment(index)},{200 + index},20,0.05,0.25" for index in range(120)]
    log = read_engine_log(written(tmp_path, table(HEADER, *rows)))
    assert [row.arrival_s for row in log.rows] == sorted(moment(index) for index in range(120))
    assert not log.notes


def test_the_gaps_between_tokens_may_be_listed(tmp_path: Path) -> None:
    """Benchmarks log every gap; a step of several guessed tokens leaves fewer of them than tokens."""
    rows = [{"start": i, "isl": 200, "osl": 20, "ttft_ms": 50, "itl_ms": [10.0] * 10} for i in range(FEWEST)]
    log = read_engine_log(written(tmp_path, json.dumps(rows), "log.json"))
    assert log.rows[0].e2e_s == pytest.approx(0.15)
    rows[3]["itl_ms"] = []
    rows[3]["osl"] = 1
    assert read_engine_log(written(tmp_path, json.dumps(rows), "log.json")).rows[3].e2e_s == 0.05


@pytest.mark.parametrize("gaps", [[0.01] * 5000 + ["x"], [0.01] * 5000 + [True], "0.01 " * 5000])
def test_what_is_no_time_is_not_repeated_at_length(tmp_path: Path, gaps: Any) -> None:
    rows = [{"start": i, "isl": 200, "osl": 20, "ttft": 0.05, "itl": [0.01]} for i in range(FEWEST)]
    rows[7]["itl"] = gaps
    with pytest.raises(DataError, match=r"request 7: itl is .*, not a number") as caught:
        read_engine_log(written(tmp_path, json.dumps(rows), "log.json"))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("cell", ["1_0", "٥"])
def test_a_number_is_one_as_logs_write_it(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"log.csv:2: ttft_s is .*, not a number"):
        read_engine_log(written(tmp_path, table(HEADER, f"90,200,20,{cell},20", *lines())))


def test_spans_are_not_taken_for_runs(tmp_path: Path) -> None:
    span = {
        "span_id": "a",
        "start_time": "2025-03-01T10:00:00Z",
        "attributes": {"gen_ai.usage.input_tokens": 5},
    }
    text = "\n".join(json.dumps(span) for _ in range(FEWEST))
    with pytest.raises(DataError, match="neither requests nor runs") as caught:
        read_engine_log(written(tmp_path, text, "spans.jsonl"))
    assert "ttft" in str(caught.value.hint)


def test_only_moments_without_a_unit_count_since_1970(tmp_path: Path) -> None:
    rows = [f"{(1_795_000_000 + i) * 1000},{1_795_000_000.25 + i:.2f},200,20,50" for i in range(FEWEST)]
    log = read_engine_log(written(tmp_path, table("arrival,end_time_s,isl,osl,ttft_ms", *rows)))
    assert log.rows[3].e2e_s == pytest.approx(0.25)
    assert log.rows[3].arrival_s == pytest.approx(3.0)


def records(shape: Callable[[int], dict[str, Any]]) -> str:
    return "\n".join(json.dumps(shape(index)) for index in range(FEWEST))


def test_a_proxys_log_is_read_as_it_writes_it(tmp_path: Path) -> None:
    """LiteLLM: moments in camel case, and a ``response_time`` that is the time to the first token."""
    lite = records(
        lambda i: {
            "startTime": 1.79e9 + i, "endTime": 1.79e9 + i + 0.25, "completionStartTime": 1.79e9 + i + 0.05,
            "response_time": 0.05, "prompt_tokens": 200, "completion_tokens": 20, "status": "success",
        }
    )  # fmt: skip
    nested = records(
        lambda i: {
            "ts": f"2026-11-21T08:00:{i:02d}Z", "usage": {"prompt_tokens": 200, "completion_tokens": 20},
            "ttft_ms": 50.0, "duration_ms": 250.0, "status": 200,
        }
    )  # fmt: skip
    for text in (lite, nested):
        row = read_engine_log(written(tmp_path, text, "l.jsonl")).rows[7]
        assert (row.prompt_tokens, row.output_tokens) == (200, 20)
        assert (row.arrival_s, row.ttft_s, row.e2e_s) == pytest.approx((7.0, 0.05, 0.25), abs=1e-6)


def test_locusts_response_time_is_end_to_end_and_its_unit_is_asked_for(tmp_path: Path) -> None:
    header = "timestamp,response_time{0},prompt_tokens,completion_tokens,ttft{0},success"
    rows = [f"{1.79e9 + index},250.0,200,20,50.0,True" for index in range(FEWEST)]
    log = read_engine_log(written(tmp_path, table(header.format("_ms"), *rows)))
    assert (log.rows[0].ttft_s, log.rows[0].e2e_s) == pytest.approx((0.05, 0.25))
    with pytest.raises(DataError, match="too long for any engine") as caught:
        read_engine_log(written(tmp_path, table(header.format(""), *rows)))
    assert "ttft, response_time" in str(caught.value.hint)


def test_a_log_stamped_at_the_end_says_when_requests_came(tmp_path: Path) -> None:
    rows = [
        f"{1.79e9 + index + 0.25 * (1 + index % 2)},200,20,0.05,{0.25 * (1 + index % 2)}"
        for index in range(FEWEST)
    ]
    log = read_engine_log(written(tmp_path, table("finished_at,isl,osl,ttft_s,e2e_s", *rows)))
    assert [row.arrival_s for row in log.rows] == pytest.approx(list(range(FEWEST)), abs=1e-6)


def test_requests_without_moments_were_sent_in_turn_if_the_user_says_how_many(tmp_path: Path) -> None:
    """llmperf's individual responses: lengths and durations, no times of day."""
    text = json.dumps([
        {"error_code": None, "ttft_s": 0.05, "end_to_end_latency_s": 0.5 if index % 2 else 0.3,
         "inter_token_latency_s": 0.01, "number_output_tokens": 20, "number_input_tokens": 200}
        for index in range(FEWEST)
    ])  # fmt: skip
    path = written(tmp_path, text, "individual_responses.json")
    with pytest.raises(DataError, match="no column for arrival") as caught:
        read_engine_log(path)
    assert "--max-in-flight" in str(caught.value.hint)
    log = read_engine_log(path, 2)
    assert any("sent in turn, 2 in flight" in note for note in log.notes)
    assert [row.arrival_s for row in log.rows[:5]] == pytest.approx([0.0, 0.0, 0.3, 0.5, 0.6])


def test_sglangs_file_with_start_times_is_sglangs(tmp_path: Path) -> None:
    text = json.dumps(bench(backend="sglang-oai")) + "\n"
    assert read_engine_log(written(tmp_path, text, "s.jsonl")).format == "sglang-bench"


def test_dates_as_spreadsheets_write_them(tmp_path: Path) -> None:
    rows = [f"20.11.2026 10:00:{index:02d},{200 + index},20,0.05,0.25" for index in range(FEWEST)]
    text = "\n".join(["start_time,prompt_tokens,output_tokens,ttft_s,e2e_s", *rows])
    found = read_engine_log(written(tmp_path, text))
    assert [round(row.arrival_s, 6) for row in found.rows] == list(range(FEWEST))
    ambiguous = text.replace("20.11.2026 10:00:00", "05/11/2026 10:00:00").replace("20.11.2026", "06/11/2026")
    with pytest.raises(DataError, match="either number may be the day"):
        read_engine_log(written(tmp_path, ambiguous))
