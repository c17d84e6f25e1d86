"""What was asked for is counted apart from what was served, and saturation is told from a burst."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from kvplan.engine.recorder import Recorder, RequestRow, SeriesPoint
from kvplan.reporting.result import Result
from kvplan.scenario.load import load_scenario
from kvplan.scenario.offered import Offered, queue_at
from kvplan.scenario.run import Run
from kvplan.traces.request import Request, default_output

LINEAR = {"latency.model": "linear", "latency.a": 0.01, "latency.b": 2e-5, "latency.c": 1e-8}
POOL = {"cache.blocks": 3000, "engine.max_model_len": 16384, "engine.max_num_seqs": 8}
# Eight at a time take about 0.8 s: the engine serves some 9 a second.
FIXED = {
    "workload.synthesize": "fixed", "workload.requests": 400, "workload.prompt_tokens": 512,
    "workload.output_tokens": 64,
}  # fmt: skip


def offered(flags: dict[str, Any], *, engine: dict[str, Any] | None = None) -> dict[str, Any]:
    run = Run(load_scenario(None, {**LINEAR, **(engine or POOL), **flags}))
    run.execute()
    document = run.result(["kvplan"])
    Result.model_validate(document)
    found: dict[str, Any] = document["offered"]
    return found


def test_a_queue_that_grows_until_the_end_is_saturation():
    found = offered({**FIXED, "workload.rate": 20.0})
    assert found["saturated"]
    assert found["requests_per_s"] == pytest.approx(20, rel=0.1)
    alone = offered({**FIXED, "workload.max_in_flight": 8})
    assert alone["requests_per_s"] is None
    assert 5 < found["sustained_per_s"] < 12


@pytest.mark.parametrize("rate", [1.0, 4.0, 6.0])
def test_less_than_it_can_serve_is_none(rate: float):
    found = offered({**FIXED, "workload.rate": rate})
    assert not found["saturated"]
    assert found["sustained_per_s"] is None


def test_clients_that_wait_for_answers_cannot_saturate():
    for pace in ({"workload.max_in_flight": 100}, {"workload.max_in_flight": 100, "workload.rate": 20.0}):
        found = offered({**FIXED, **pace})
        assert (found["requests_per_s"], found["saturated"]) == (None, False)


def traced(tmp_path: Path, times: Iterable[float]) -> dict[str, Any]:
    rows = [
        {"timestamp": round(1000 * t), "input_length": 512, "output_length": 64, "hash_ids": [i]}
        for i, t in enumerate(sorted(times))
    ]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return offered({"workload.trace": str(trace), "workload.format": "mooncake"})


def test_a_burst_is_none_wherever_it_comes(tmp_path: Path):
    steady = [0.5 * i for i in range(200)]
    for burst_s in (0.0, 50.0, 95.0):
        assert not traced(tmp_path, [*steady, *[burst_s + 0.01 * i for i in range(60)]])["saturated"]


def test_a_slow_first_half_does_not_hide_a_second_half_that_drowns(tmp_path: Path):
    assert traced(tmp_path, [*[float(i) for i in range(50)], *[50 + 0.04 * i for i in range(1250)]])[
        "saturated"
    ]


def test_all_at_once_has_no_rate(tmp_path: Path):
    found = traced(tmp_path, [0.0] * 300)
    assert (found["requests_per_s"], found["saturated"]) == (None, False)
    assert not traced(tmp_path, [0.001 * i for i in range(300)])["saturated"]  # nor within one service


def test_who_is_turned_away_is_counted_and_saturates_nothing():
    found = offered({**FIXED, "workload.rate": 20.0}, engine={**POOL, "engine.max_model_len": 256})
    assert found["requests"] == 400
    assert found["prompt_tokens"] == 400 * 512
    assert (found["tokens_mean"], found["tokens_p99"]) == (576.0, 576.0)
    assert not found["saturated"]


def test_samples_of_one_request_are_one_request():
    found = offered({**FIXED, "workload.rate": 20.0, "sampling.n": 2})
    assert found["saturated"]
    assert found["sustained_per_s"] < 8


def test_nothing_offered_has_no_figures():
    found = Offered().to_dict(Recorder(), timed=True)
    assert found["requests"] == 0
    assert (found["tokens_mean"], found["requests_per_s"], found["saturated"]) == (None, None, False)


def points(*rows: tuple[float, int]) -> list[SeriesPoint]:
    return [SeriesPoint(t, 0, 0, 1, waiting, 0, 0, 0) for t, waiting in rows]


def test_the_queue_is_the_one_that_stands_when_the_last_request_comes():
    series = points((0, 0), (1, 3), (2, 0), (3, 2), (4, 5), (6, 1), (7, 0), (8, 2))
    assert queue_at(series, 0.0, 5.0, 9.0) == (2, 7)
    assert queue_at(series, 0.0, 9.0, 9.0) == (7, 9.0)
    assert queue_at(points((0, 3), (4, 0)), 0.0, 5.0, 9.0) == (5.0, 5.0)
    assert queue_at([], 0.0, 5.0, 9.0) == (5.0, 5.0)


def test_an_interrupted_run_says_nothing_about_rates():
    counted = Offered()
    rows = [Request(f"r{i}", float(i), ((0, 8),), 8, default_output(i, 2), 2) for i in range(100)]
    recorder = Recorder()
    for row in counted.counted(rows):
        recorder.totals.requests += 1
        recorder.finished(RequestRow(row.id, row.arrival_s, 0.0, 0.1, 0.2, 8, 2, 0, 0))
    recorder.settle()
    assert counted.to_dict(recorder, timed=False)["requests_per_s"] is None
    assert counted.to_dict(recorder, timed=True)["requests_per_s"] == 1.0


BIG = {"model": "llama-3.1-70b", "gpu": "h100-sxm", "parallel.tp": 2, "latency.model": "linear",
       "latency.a": 0.02, "latency.b": 1e-5, "latency.c": 1e-9}  # fmt: skip


def memory(flags: dict[str, Any]) -> dict[str, Any]:
    run = Run(load_scenario(None, {**BIG, **FIXED, "workload.requests": 1, **flags}))
    run.execute()
    found: dict[str, Any] = run.result(["kvplan"])["memory"]
    return found


def test_an_engine_whose_pool_is_smaller_than_one_request_would_not_start():
    bill = memory({})
    assert not bill["starts"]
    longest = bill["longest_request"]
    assert memory({"engine.max_model_len": longest})["starts"]
    assert not memory({"engine.max_model_len": longest + 16})["starts"]


def test_a_pool_that_was_given_is_a_what_if_and_sglang_lowers_its_limit():
    assert memory({"cache.blocks": 500})["starts"]
    small = {"model": "llama-3.1-8b", "gpu": "l4", "parallel.tp": 1}
    assert not memory(small)["starts"]
    # From 0.5.20 on SGLang holds back so much on such a GPU that the weights do not fit either.
    assert memory({**small, "engine.kind": "sglang", "engine.version": "0.5.19"})["starts"]
