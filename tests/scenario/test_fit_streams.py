"""Whether runs show a front end that takes time to hand tokens out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from kvplan.scenario.engine_fit import EngineFit, fit_engine
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.fit_advice import streams_left
from kvplan.scenario.fit_document import fit_document
from kvplan.scenario.load import load_scenario
from kvplan.scenario.log_replay import LogReplay
from kvplan.scenario.run import Run
from tests.scenario.test_engine_fit import BASE, TRUTH, measured

CHUNK = "api_server_chunk_s"
CALM: dict[str, Any] = {
    "workload.synthesize": "fixed", "workload.prompt_tokens": "uniform:50-600",
    "workload.output_tokens": "uniform:20-120", "workload.requests": 80, "workload.rate": 6.0,
}  # fmt: skip
BUSY = {**CALM, "workload.rate": 1e4, "workload.max_in_flight": 48, "workload.requests": 150}
WORK_S = 2.5e-4


def logs(chunk_s: float, **more: float) -> list[EngineLog]:
    truth = {**TRUTH, **({CHUNK: chunk_s} if chunk_s else {}), **more}
    return [
        measured(truth, noise=0.2, **CALM), replace(measured(truth, noise=0.2, **BUSY), max_in_flight=48)
    ]  # fmt: skip


def fitted(runs: EngineLog | list[EngineLog], **more: object) -> EngineFit:
    return fit_engine(load_scenario(None, {**BASE, **CALM, **more}), runs)


@pytest.fixture(scope="module")
def slow() -> EngineFit:
    return fitted(logs(WORK_S))


def test_two_loads_tell_the_work_on_a_chunk(slow: EngineFit) -> None:
    assert slow.constants[CHUNK] == pytest.approx(WORK_S, rel=0.3)
    assert CHUNK in slow.uncertainty
    assert abs(math.log(slow.constants[CHUNK] / WORK_S)) <= 1.25 * math.log1p(slow.uncertainty[CHUNK])
    assert any("is assumed" in note and CHUNK in note for note in slow.notes)


def test_the_document_is_read_back_with_it(slow: EngineFit, tmp_path: Any) -> None:
    import json

    scenario = load_scenario(None, {**BASE, **CALM})
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(fit_document(slow, scenario, logs(WORK_S), [])))
    given = {"latency.model": "fitted", "latency.name": str(path), "accuracy.ensemble": 4}
    run = Run(load_scenario(None, {**BASE, **BUSY, **given}))
    assert run.clock.client.chunk_s == slow.constants[CHUNK]
    run.execute()
    result = run.result(["x"])
    low, high = result["accuracy"]["intervals"]["ttft_s"]["mean"]
    assert low < result["latency"]["ttft_s"]["mean"] < high


def test_a_front_end_that_takes_none_gets_none() -> None:
    fit = fitted(logs(0.0))
    assert CHUNK not in fit.constants


def test_one_calm_run_does_not_tell_and_says_up_to_how_many_streams() -> None:
    fit = fitted(logs(WORK_S)[0])
    assert CHUNK not in fit.constants
    assert any("every chunk that it streams" in note for note in fit.notes)


def test_one_load_does_not_tell_however_slow_a_front_end_it_suggests() -> None:
    fit = fitted(logs(8 * WORK_S)[0])
    assert CHUNK not in fit.constants


def test_what_the_scenario_says_is_kept() -> None:
    fit = fitted(logs(WORK_S)[0], **{f"latency.{CHUNK}": WORK_S})
    assert CHUNK not in fit.constants
    assert not any("every chunk" in note for note in fit.notes)


def test_replicas_are_fitted_without_it() -> None:
    fit = fitted(logs(0.0)[0], **{"parallel.replicas": 2})
    assert CHUNK not in fit.constants
    assert not any("every chunk" in note for note in fit.notes)


def test_answers_of_one_token_have_no_streams_to_tell_of() -> None:
    rows = tuple(replace(row, output_tokens=1, e2e_s=row.ttft_s) for row in logs(0.0)[0].rows)
    fit = fitted(EngineLog("one.csv", "csv", rows, ()))
    assert CHUNK not in fit.constants
    assert not any("every chunk" in note for note in fit.notes)


def test_a_servers_own_times_are_the_engines_whatever_the_front_end_holds() -> None:
    run = Run(load_scenario(None, {**BASE, **CALM}))
    replay = LogReplay(run.system, logs(0.0)[0])
    clock, client = run.clock.model, run.clock.client
    without, slow = (
        replay.inside(clock, replace(client, chunk_s=chunk_s)) for chunk_s in (0.0, 1e-6)
    )  # fmt: skip
    for row, late in zip(without, slow, strict=True):
        assert row is not None
        assert late is not None
        assert late.prefill_s == pytest.approx(row.prefill_s, abs=1e-3)
        assert late.ttft_s >= row.ttft_s - 1e-3


def test_what_is_said_of_what_is_not_told() -> None:
    assert streams_left(0.0, 0.0, 20.0, 0.01) == []
    assert streams_left(0.0, 1e-5, 20.0, 0.01) == []
    (note,) = streams_left(0.0, 8e-5, 20.0, 0.01)
    assert "80 us" in note
    assert "120 streams" in note
