"""Files as benchmark tools write them: the same requests in each, read exactly, or refused with the reason."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import DataError
from kvplan.scenario.engine_log import FEWEST, MAX_RUNS, EngineLog, read_engine_logs
from tests.scenario.engine_logs import read_engine_log

COUNT = 2 * FEWEST
BEGUN_S = 53_211.5
"""Of a clock that counts from when the machine was started."""
STEP_S = 0.011


def request(index: int) -> tuple[float, int, int, float]:
    """(sent, prompt, output, TTFT)."""
    return 0.4 * index, 100 + 7 * index, 20 + index % 9, 0.05 + 0.0003 * (index % 11)


REQUESTS = [request(index) for index in range(COUNT)]


def e2e_s(output: int, ttft: float) -> float:
    return ttft + (output - 1) * STEP_S


def same(log: EngineLog, *, sent: bool = True) -> None:
    """The log holds ``REQUESTS``."""
    assert len(log.rows) == COUNT
    for row, (start, prompt, output, ttft) in zip(log.rows, REQUESTS, strict=True):
        assert (row.prompt_tokens, row.output_tokens) == (prompt, output)
        assert row.ttft_s == pytest.approx(ttft, abs=1e-6)
        assert row.e2e_s == pytest.approx(e2e_s(output, ttft), abs=1e-6)
        assert not sent or row.arrival_s == pytest.approx(start, abs=1e-6)


def put(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def lines(documents: Sequence[Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in documents)


def vllm(**changes: Any) -> dict[str, Any]:
    """As ``vllm bench serve --save-result --save-detailed`` of 0.33 writes it."""
    return {
        "date": "20261123-110000", "endpoint_type": "openai", "backend": "openai", "model_id": "org/some-model",
        "tokenizer_id": "org/some-model", "num_prompts": COUNT, "request_rate": 2.5, "burstiness": 1.0,
        "max_concurrency": None, "duration": 33.0, "completed": COUNT, "failed": 0, "request_throughput": 2.4,
        "input_lens": [prompt for _, prompt, _, _ in REQUESTS],
        "output_lens": [output for _, _, output, _ in REQUESTS],
        "ttfts": [ttft for *_, ttft in REQUESTS],
        "itls": [[STEP_S] * (output - 1) for _, _, output, _ in REQUESTS],
        "latencies": [e2e_s(output, ttft) for _, _, output, ttft in REQUESTS],
        "start_times": [BEGUN_S + start for start, *_ in REQUESTS], "queue_times": [0.0] * COUNT,
        "generated_texts": [""] * COUNT, "errors": [""] * COUNT,
    } | changes  # fmt: skip


def sglang(**changes: Any) -> dict[str, Any]:
    """A line of ``sglang.bench_serving --output-details``."""
    lists = {name: vllm()[name] for name in ("input_lens", "output_lens", "ttfts", "itls", "errors")}
    return {
        "tag": None, "backend": "sglang-oai", "dataset_name": "random", "request_rate": 2.5,
        "max_concurrency": None, "server_info": {"model_path": "org/some-model", "tp_size": 4},
        "duration": 33.0, "completed": COUNT, "request_throughput": 2.4, **lists,
    } | changes  # fmt: skip


def guidellm(index: int) -> dict[str, Any]:
    """A request in a report of GuideLLM 0.8; nobody asked its server what was cached."""
    start, prompt, output, ttft = request(index)
    moment = 1.7e9 + start
    return {
        "type_": "generative_request_stats", "request_id": str(index),
        "info": {
            "status": "completed", "error": None,
            "timings": {"targeted_start": moment - 0.2, "queued": moment - 0.3, "request_start": moment,
                        "first_token_iteration": moment + ttft},
        },
        "input_metrics": {"text_tokens": prompt, "cached_tokens": None, "total_tokens": prompt},
        "output_metrics": {"text_tokens": output, "cached_tokens": None, "total_tokens": output},
        "request_start_time": moment, "request_end_time": moment + e2e_s(output, ttft),
        "request_latency": e2e_s(output, ttft), "prompt_tokens": prompt, "cached_tokens": None,
        "output_tokens": output, "total_tokens": prompt + output, "time_to_first_token_ms": 1e3 * ttft,
        "inter_token_latency_ms": 1e3 * STEP_S,
    }  # fmt: skip


def lifecycle(index: int) -> dict[str, Any]:
    """A request of inference-perf: what it counted by tokenizing the answer is less than what was generated."""
    start, prompt, output, ttft = request(index)
    moments = [BEGUN_S + start + ttft + STEP_S * step for step in range(output)]
    return {
        "start_time": BEGUN_S + start, "end_time": moments[-1], "request": "{}", "response": "data: {}",
        "info": {
            "request_metrics": {"text": {"input_tokens": prompt}, "image": None},
            "response_metrics": {
                "output_tokens": output - 2,
                "server_usage": {"prompt_tokens": prompt, "completion_tokens": output,
                                 "prompt_tokens_details": {"cached_tokens": 16}},
                "chunk_times": [*moments[:-1:2], moments[-1]], "output_token_times": moments[:-2],
            },
            "labels": {}, "input_tokens": prompt,
        },
        "error": None,
    }  # fmt: skip


def aiperf(index: int, phase: str, number: int) -> dict[str, Any]:
    start, prompt, output, ttft = request(index)
    metrics = {
        "input_sequence_length": (prompt, "tokens"), "output_sequence_length": (output, "tokens"),
        "time_to_first_token": (1e3 * ttft, "ms"), "request_latency": (1e3 * e2e_s(output, ttft), "ms"),
    }  # fmt: skip
    return {
        "metadata": {
            "request_start_ns": round(1e9 * (1.7e9 + start)), "benchmark_phase": phase, "phase_index": number,
            "was_cancelled": False,
        },
        "metrics": {name: {"value": value, "unit": unit} for name, (value, unit) in metrics.items()},
        "error": None,
    }  # fmt: skip


def test_vllms_file_is_read_plain_and_compressed(tmp_path: Path) -> None:
    same(read_engine_log(put(tmp_path / "v.json", vllm())))
    packed = tmp_path / "v.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(vllm()).encode()))
    same(read_engine_log(packed))
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(DataError, match="damaged or cut short"):
        read_engine_log(packed)
    wide = tmp_path / "w.json"
    wide.write_text(json.dumps(vllm()), encoding="utf-16")
    same(read_engine_log(wide))


def test_the_whole_of_an_answer_stands_in_for_its_gaps(tmp_path: Path) -> None:
    document = vllm()
    del document["itls"]
    same(read_engine_log(put(tmp_path / "v.json", document)))
    with pytest.raises(DataError, match="without a time to first token each"):
        read_engine_log(put(tmp_path / "v.json", {**document, "latencies": [1.0]}))


SERVED = [0.02 + 0.0001 * (index % 7) for index in range(COUNT)]
"""What the server says of each request: seconds from scheduling it to its first token."""


def test_times_of_vllms_server_count_from_when_it_scheduled(tmp_path: Path) -> None:
    document = vllm(server_ttfts=SERVED, server_queue_times=[0.004] * COUNT)
    log = read_engine_log(put(tmp_path / "v.json", document))
    same(log)
    assert [row.prefill_s for row in log.rows] == SERVED
    row = log.rows[3]
    assert row.before_s == pytest.approx(request(3)[3] - SERVED[3])
    early = row.unscheduled()
    assert early.ttft_s == pytest.approx(request(3)[3] - SERVED[3])
    assert early.tpot_s == pytest.approx(STEP_S)
    assert {row.prefill_s for row in log.without_server_times().rows} == {None}
    assert read_engine_log(put(tmp_path / "v.json", vllm())).rows[3].before_s is None
    with pytest.raises(DataError, match="1 server_ttfts for"):
        read_engine_log(put(tmp_path / "v.json", vllm(server_ttfts=[0.1])))


@pytest.mark.parametrize("strange", [None, 9.0])
def test_a_servers_times_that_not_all_requests_can_have_are_left_out_and_said(
    tmp_path: Path, strange: float | None
) -> None:
    document = vllm(server_ttfts=[*SERVED[:-2], strange, SERVED[-1]])
    log = read_engine_log(put(tmp_path / "v.json", document))
    same(log)
    assert {row.prefill_s for row in log.rows} == {None}
    assert log.notes[0].startswith("the server's own times are not used: of 1 requests")
    nobody = read_engine_log(put(tmp_path / "v.json", vllm(server_ttfts=[None] * COUNT)))
    assert not nobody.notes


def test_a_servers_times_in_logs_of_ones_own(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"start_s": start, "first_token_latency_s": ttft, "e2e_s": e2e_s(output, ttft), "prompt_tokens": prompt,
         "output_tokens": output}
        for start, prompt, output, ttft in REQUESTS
    ]  # fmt: skip
    span = "gen_ai.latency.time_in_model_prefill"
    answers: list[list[dict[str, Any]]] = [
        [{"server_ttft_ms": 1e3 * served} for served in SERVED],
        [{span: served} for served in SERVED],
        [{"metrics": {"time_to_first_token_ms": 1e3 * served, "generation_time_ms": 1.0, "queue_time_ms": 4.0,
                      "mean_itl_ms": None, "tokens_per_second": 9.0}} for served in SERVED],
    ]  # fmt: skip
    for said in answers:
        both = [row | more for row, more in zip(rows, said, strict=True)]
        log = read_engine_log(put(tmp_path / "l.jsonl", lines(both)))
        same(log)
        assert [row.prefill_s for row in log.rows] == pytest.approx(SERVED)
    both[5] = rows[5]
    assert read_engine_log(put(tmp_path / "l.jsonl", lines(both))).rows[4].prefill_s is None


def test_every_run_of_a_file_is_read(tmp_path: Path) -> None:
    rates = [vllm(request_rate=rate) for rate in (1.0, 2.0, 4.0)]
    found = read_engine_logs(put(tmp_path / "appended.json", "\n".join(map(json.dumps, rates))))
    assert [log.path.rpartition(", ")[2] for log in found] == ["run 1", "run 2", "run 3"]
    for log in found:
        same(log)
    assert len(read_engine_logs(put(tmp_path / "list.json", rates))) == 3
    assert len(read_engine_logs(put(tmp_path / "within.json", {"runs": rates[:2]}))) == 2
    runs = read_engine_logs(put(tmp_path / "s.jsonl", lines([sglang(), sglang(request_rate=9.0)])))
    assert [log.model for log in runs] == ["org/some-model"] * 2
    assert [log.tp for log in runs] == [4, 4]
    for run in runs:
        same(run, sent=False)


def test_runs_with_too_few_requests_are_left_out_and_said(tmp_path: Path) -> None:
    short = {name: value[:9] if isinstance(value, list) else value for name, value in vllm().items()}
    (log,) = read_engine_logs(put(tmp_path / "v.json", [vllm(), short]))
    same(log)
    with pytest.raises(DataError, match=f"none of the 2 runs has {FEWEST} requests"):
        read_engine_logs(put(tmp_path / "v.json", [short, short]))
    with pytest.raises(DataError, match=f"more than the {MAX_RUNS}"):
        read_engine_logs(put(tmp_path / "v.json", [vllm()] * (MAX_RUNS + 1)))


@pytest.mark.parametrize(
    ("other", "what"),
    [(sglang(server_info={"model_path": "b"}), "models"), (sglang(server_info={"tp_size": 8}), "sizes")],
)
def test_runs_of_several_deployments_are_refused(tmp_path: Path, other: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=f"several {what}"):
        read_engine_logs(put(tmp_path / "s.jsonl", lines([sglang(), other])))


def test_a_line_that_was_cut_is_left_out_and_said(tmp_path: Path) -> None:
    text = lines([aiperf(index, "profiling", 0) for index in range(COUNT)] + [aiperf(0, "profiling", 0)])
    log = read_engine_log(put(tmp_path / "a.jsonl", text[:-20]))
    same(log)
    assert log.notes == ("the last line is cut short and left out, as of a benchmark that was stopped",)
    with pytest.raises(DataError, match="not JSON"):
        read_engine_log(put(tmp_path / "a.jsonl", text[:-20] + "\n" + text))
    with pytest.raises(DataError, match="not JSON"):  # a whole line that is none
        read_engine_log(put(tmp_path / "a.jsonl", text[:-20] + "\n"))
    with pytest.raises(DataError, match="cut short: copy it whole"):
        read_engine_log(put(tmp_path / "v.json", json.dumps(vllm())[:-20]))


def test_cached_tokens_of_sglangs_report(tmp_path: Path) -> None:
    cached = [prompt + 5 if index == 3 else 64 for index, (_, prompt, _, _) in enumerate(REQUESTS)]
    log = read_engine_log(put(tmp_path / "s.jsonl", sglang(cached_tokens=cached)))
    assert [row.cached_tokens for row in log.rows[2:5]] == [64, request(3)[1], 64]
    # Who does not report them has none of any request.
    silent = read_engine_log(put(tmp_path / "s.jsonl", sglang(cached_tokens=[0] * COUNT)))
    assert {row.cached_tokens for row in silent.rows} == {None}
    with pytest.raises(DataError, match="1 cached_tokens for"):
        read_engine_log(put(tmp_path / "s.jsonl", sglang(cached_tokens=[3])))


def test_answers_that_were_not_streamed_are_refused(tmp_path: Path) -> None:
    whole = [e2e_s(output, ttft) for _, _, output, ttft in REQUESTS]
    for document in (
        sglang(ttfts=whole, itls=[[]] * COUNT),
        vllm(ttfts=[0.0] * COUNT, itls=[[]] * COUNT),
        [{**guidellm(index), "time_to_first_token_ms": 1e3 * whole[index]} for index in range(COUNT)],
    ):
        with pytest.raises(DataError, match="not streamed") as caught:
            read_engine_log(put(tmp_path / "x.json", document))
        assert "streaming on" in str(caught.value.hint)


def test_a_report_of_guidellm(tmp_path: Path) -> None:
    requests = [guidellm(index) for index in range(COUNT)]
    one = {"type_": "generative_benchmark", "requests": {"successful": requests, "incomplete": requests[:1]}}
    log = read_engine_log(put(tmp_path / "g.json", {"metadata": {}, "benchmarks": [one]}))
    same(log)
    assert log.rows[0].cached_tokens is None
    for run in read_engine_logs(put(tmp_path / "g.json", {"benchmarks": [one, one]})):
        same(run)


def test_lifecycles_of_inference_perf(tmp_path: Path) -> None:
    requests = [lifecycle(index) for index in range(COUNT)]
    failed = lifecycle(3) | {"error": {"error_type": "TimeoutError", "error_msg": ""}}
    failed["info"] = {"response_metrics": None, "input_tokens": 5}
    log = read_engine_log(put(tmp_path / "i.json", [*requests, failed]))
    same(log)
    assert {row.cached_tokens for row in log.rows} == {16}
    assert log.notes[0].startswith("1 failed requests")
    same(read_engine_log(put(tmp_path / "i.jsonl", lines(requests))))
    endless = [{key: value for key, value in item.items() if key != "end_time"} for item in requests]
    same(read_engine_log(put(tmp_path / "i.json", endless)))
    for item in requests:  # as it wrote them before
        usage = item["info"]["response_metrics"]
        item["info"] = {
            "input_tokens": item["info"]["input_tokens"],
            "output_tokens": usage["server_usage"]["completion_tokens"],
            "output_token_times": usage["output_token_times"],
        }
    same(read_engine_log(put(tmp_path / "i.json", requests)))


@pytest.mark.parametrize(("unit", "size"), [(None, 1.0), ("s", 1.0), ("ms", 1e3)])
def test_a_file_of_genai_bench(tmp_path: Path, unit: str | None, size: float) -> None:
    rows: list[dict[str, Any]] = [
        {"ttft": size * ttft, "tpot": size * STEP_S, "e2e_latency": size * e2e_s(output, ttft),
         "output_latency": size * (output - 1) * STEP_S, "num_input_tokens": prompt,
         "num_output_tokens": output, "output_throughput": 90.0, "error_code": None, "error_message": None}
        for _, prompt, output, ttft in REQUESTS
    ]  # fmt: skip
    rows.append({**dict.fromkeys(rows[0]), "error_code": 500, "error_message": "internal"})
    document: dict[str, Any] = {
        "aggregated_metrics": {"num_concurrency": 4, "stats": {"ttft": {"p50": 1.0}}},
        "individual_request_metrics": rows,
    }
    if unit is not None:
        document["_time_unit"] = unit
    log = read_engine_log(put(tmp_path / "g.json", document))
    same(log, sent=False)
    assert (log.format, log.max_in_flight) == ("genai-bench", 4)
    for changed, message in (({"_time_unit": "us"}, "not s or ms"), (
        {"aggregated_metrics": {"num_concurrency": 0}}, "not a number of clients"
    )):  # fmt: skip
        with pytest.raises(DataError, match=message):
            read_engine_log(put(tmp_path / "g.json", document | changed))


def test_a_database_of_evalscope(tmp_path: Path) -> None:
    path = tmp_path / "benchmark_data.db"
    with closing(sqlite3.connect(path)) as base:
        base.execute(
            "CREATE TABLE result(request TEXT, start_time REAL, inter_token_latencies TEXT, success INTEGER, "
            "response_messages TEXT, completed_time REAL, latency REAL, first_chunk_latency REAL, "
            "prompt_tokens INTEGER, completion_tokens INTEGER, time_per_output_token REAL, is_stream INTEGER, "
            "error TEXT)"
        )
        for start, prompt, output, ttft in REQUESTS:
            whole = e2e_s(output, ttft)
            row = ("{}" * 500, BEGUN_S + start, "[0.011]", 1, "", BEGUN_S + start + whole, whole, ttft, prompt,
                   output, STEP_S, 1, None)  # fmt: skip
            base.execute(f"INSERT INTO result VALUES ({', '.join('?' * len(row))})", row)
        base.execute(f"INSERT INTO result VALUES ({', '.join('?' * len(row))})", (*row[:-1], "reset by peer"))
        base.execute("INSERT INTO result(request, start_time, success) VALUES ('x', 1.0, 0)")
        base.commit()
        log = read_engine_log(path)
        same(log)
        assert log.notes[0].startswith("2 failed requests")
        base.execute("DROP TABLE result")
        base.execute("CREATE TABLE other(a TEXT)")
        base.commit()
    with pytest.raises(DataError, match="none of its tables does"):
        read_engine_log(path)
    path.write_bytes(path.read_bytes()[:100] + b"x" * 5000)
    with pytest.raises(DataError, match="SQLite cannot read"):
        read_engine_log(path)


def test_phases_of_aiperf_are_runs(tmp_path: Path) -> None:
    indexes = range(COUNT)
    warm = [aiperf(index, "warmup", 0) for index in range(5)]
    one, two = ([aiperf(index, "profiling", phase) for index in indexes] for phase in (1, 2))
    first, second = read_engine_logs(put(tmp_path / "a.jsonl", lines([*warm, *one, *two])))
    same(first)
    same(second)
    assert first.notes == ("5 requests of the warm-up are left out",)


@pytest.mark.parametrize("name", ["num_cached_tokens", "cached_prompt_tokens", "prompt_cache_hit_tokens"])
def test_what_was_cached_has_several_names(tmp_path: Path, name: str) -> None:
    rows = [
        {"start_s": start, "ttft_s": ttft, "e2e_s": e2e_s(output, ttft), "prompt_tokens": prompt,
         "output_tokens": output, name: 32 if index else None}
        for index, (start, prompt, output, ttft) in enumerate(REQUESTS)
    ]  # fmt: skip
    log = read_engine_log(put(tmp_path / "l.jsonl", lines(rows)))
    assert [row.cached_tokens for row in log.rows[:2]] == [None, 32]


def test_usage_within_counts_where_the_log_itself_says_nothing(tmp_path: Path) -> None:
    rows = [
        {"start_s": start, "ttft_s": ttft, "e2e_s": e2e_s(output, ttft), "output_len": output,
         "response": {"output_tokens": 1, "usage": {"prompt_tokens": prompt, "completion_tokens": 1}}}
        for start, prompt, output, ttft in REQUESTS
    ]  # fmt: skip
    same(read_engine_log(put(tmp_path / "l.jsonl", lines(rows))))


def test_moments_of_tokens_are_read_where_files_have_them(tmp_path: Path) -> None:
    exported = [aiperf(index, "profiling", 0) for index in range(COUNT)]
    for item, (_, _, output, _) in zip(exported, REQUESTS, strict=True):
        item["metrics"]["inter_chunk_latency"] = {"value": [1e3 * STEP_S] * (output - 1), "unit": "ms"}
    listed = [
        {"start_s": start, "ttft_s": ttft, "itl_ms": [1e3 * STEP_S] * (output - 1), "prompt_tokens": prompt,
         "output_tokens": output}
        for start, prompt, output, ttft in REQUESTS
    ]  # fmt: skip
    moments = [
        {**lifecycle(index), "info": {"input_tokens": prompt, "output_token_times": [
            BEGUN_S + start + ttft + STEP_S * step for step in range(output)
        ]}, "output_tokens": output}
        for index, (start, prompt, output, ttft) in enumerate(REQUESTS)
    ]  # fmt: skip
    for name, document in (
        ("moments.json", moments), ("vllm.json", vllm()), ("sglang.jsonl", sglang(request_rate="inf", max_concurrency=8)),
        ("aiperf.jsonl", lines(exported)), ("own.jsonl", lines(listed)),
    ):  # fmt: skip
        log = read_engine_log(put(tmp_path / name, document))
        for row in log.rows:
            assert row.gaps == pytest.approx([STEP_S] * (row.output_tokens - 1)), name
        assert log.drawn == (name == "sglang.jsonl")  # others say when requests were sent
    whole = read_engine_log(put(tmp_path / "whole.json", vllm(itls=None)))
    assert not any(row.gaps for row in whole.rows)
