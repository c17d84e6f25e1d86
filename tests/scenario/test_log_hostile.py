"""Serving runs that no benchmark writes: each is refused by name, none breaks the reader."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvplan.errors import DataError
from kvplan.scenario.engine_log import read_engine_logs

COUNT = 60


def run(**changes: Any) -> dict[str, Any]:
    """What SGLang's benchmark writes of a run, changed."""
    lists = {
        "input_lens": [100] * COUNT, "output_lens": [20] * COUNT, "ttfts": [0.1] * COUNT,
        "itls": [[0.01] * 19] * COUNT, "errors": [""] * COUNT,
    }  # fmt: skip
    return {"backend": "sglang", "request_rate": 4.0, "completed": COUNT, **lists, **changes}


def read(tmp_path, text: str):
    path = tmp_path / "run.json"
    path.write_text(text)
    return read_engine_logs(path)


RECORD = {"start_s": 1.0, "prompt_tokens": 5, "output_tokens": 6, "ttft_s": 0.1, "e2e_s": 2.0}
FAILED = {
    "metadata": {"request_start_ns": 10**9, "benchmark_phase": "profiling"},
    "metrics": {"input_sequence_length": {"value": 5, "unit": "tokens"}}, "error": {"code": 500},
}  # fmt: skip

HOSTILE = {
    "gaps beyond any time": json.dumps(run(itls=[[1e308] * 19] * COUNT)),
    "a length of 400 digits": json.dumps(run(input_lens=[10**400] * COUNT)),
    "a time of 400 digits": json.dumps(run(ttfts=[10**400] * COUNT)),
    "a rate of 400 digits": json.dumps(run(request_rate=10**400)),
    "a rate close to none": json.dumps(run(request_rate=1e-320)),
    "a burstiness close to none": json.dumps(run(burstiness=1e-320)),
    "records of 400 digits": json.dumps([RECORD | {"start_s": 10**400}] * COUNT),
    "records of 400 digits, lengths": json.dumps([RECORD | {"prompt_tokens": 10**400}] * COUNT),
    "cached tokens of 400 digits": json.dumps(run(cached_tokens=[10**400] * COUNT, ttfts=[-1.0] * COUNT)),
    "nobody was answered": json.dumps([FAILED] * COUNT),
    "nobody has a token": json.dumps([RECORD | {"output_tokens": 0}] * COUNT),
    "an integer that Python does not read": json.dumps(run()).replace("[100,", f"[{'9' * 5000},"),
    "deep": '{"input_lens":' + "[" * 100_000 + "]" * 100_000 + "}",
}


@pytest.mark.parametrize("how", HOSTILE)
def test_runs_that_nobody_measured_are_refused(tmp_path, how):
    with pytest.raises(DataError) as caught:
        read(tmp_path, HOSTILE[how])
    assert "run.json" in (caught.value.where or "") or caught.value.where == "request 0"


def test_more_clients_than_requests_are_as_many_as_these(tmp_path):
    (log,) = read(tmp_path, json.dumps(run(max_concurrency=10**12)))
    assert len(log.rows) == COUNT
