"""Several runs of a deployment fitted together, and what one run alone is said not to tell."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run as cli
from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError
from kvplan.latency.fitted import AROUND, SEEN_SHARE, WIDEST, Seen
from kvplan.latency.parts import StepParts
from kvplan.scenario.engine_fit import EngineFit, fit_engine
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.fit_advice import (
    another_model,
    another_size,
    front_end_left,
    further_runs,
    left_assumed,
    strange,
)
from kvplan.scenario.fit_constants import CONSTANTS
from kvplan.scenario.fit_document import fit_document
from kvplan.scenario.fit_run import farthest
from kvplan.scenario.load import load_scenario
from kvplan.scenario.log_features import feature_errors, features, in_flight
from kvplan.scenario.log_limits import limits_of_all
from kvplan.scenario.measured import Measured
from kvplan.scenario.run import Run

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b", "gpu": "h100-sxm", "workload.synthesize": "fixed", "workload.requests": 100,
    "workload.prompt_tokens": "uniform:50-1500", "workload.output_tokens": "uniform:20-180", "cache.prefix": "none",
}  # fmt: skip
TRUTH = {
    "compute_efficiency": 0.5, "memory_efficiency": 0.7, "step_s": 3e-3, "request_s": 1.5e-4,
    "client_overhead_s": 0.02, "api_server_s": 1.5e-3, "client_token_s": 3e-6,
}  # fmt: skip
SLOW, FAST = {"workload.rate": 1.0}, {"workload.rate": 20.0, "seed": 3}


def measured(flags: dict[str, Any], name: str = "run.csv") -> EngineLog:
    """What clients of an engine with these constants would log."""
    rows: list[Measured] = []
    given = {f"latency.{key}": value for key, value in TRUTH.items()}
    outside = TRUTH["client_overhead_s"]
    Run(load_scenario(None, {**BASE, **flags, **given})).execute(
        on_request=lambda row: rows.append(
            Measured(row.arrival_s, row.prompt_tokens, row.output_tokens,
                     row.first_token_s - row.arrival_s + outside, row.finish_s - row.arrival_s + outside)
        )
    )  # fmt: skip
    return EngineLog(name, "csv", tuple(sorted(rows, key=lambda row: row.arrival_s)), ())


@pytest.fixture(scope="module")
def logs() -> tuple[EngineLog, EngineLog]:
    return measured(SLOW, "slow.csv"), measured(FAST, "fast.csv")


@pytest.fixture(scope="module")
def alone(logs: tuple[EngineLog, EngineLog]) -> EngineFit:
    return fit_engine(load_scenario(None, {**BASE, **SLOW}), logs[0])


@pytest.fixture(scope="module")
def together(logs: tuple[EngineLog, EngineLog]) -> EngineFit:
    return fit_engine(load_scenario(None, {**BASE, **SLOW}), logs)


def test_a_second_rate_tells_what_a_request_of_a_step_costs(alone: EngineFit, together: EngineFit) -> None:
    assert "request_s" in alone.unidentified
    assert abs(math.log(together.constants["request_s"] / TRUTH["request_s"])) < 0.3
    assert together.alone["request_s"] < alone.alone["request_s"]
    assert together.requests == 200
    assert together.in_flight[1] > 5 * alone.in_flight[1]


def test_a_step_at_the_other_load_is_predicted_from_both(alone: EngineFit, together: EngineFit) -> None:
    def step_s(values: dict[str, float]) -> float:
        given = {f"latency.{key}": value for key, value in values.items()}
        clock = Run(load_scenario(None, {**BASE, **given})).clock
        return clock.model.step_seconds(StepBatch(128, 64000, 128, 64000, [], 128))

    right = step_s(TRUTH)
    assert abs(step_s(together.constants) / right - 1) < 0.06 < abs(step_s(alone.constants) / right - 1)


def test_what_would_tell_the_rest_is_said(alone: EngineFit) -> None:
    [said] = [note for note in alone.notes if "request_s would be told" in note or "and request_s" in note]
    assert "requests in flight" in said
    assert "--engine-log once for each" in said


def test_advice_names_the_run_that_is_missing() -> None:
    rows = [Measured(0.5 * i, 500, 20, 0.05, 0.45, 0) for i in range(60)]
    runs = [(rows, in_flight(rows))]
    assert further_runs((), runs, closed=False) == []
    [prompts] = further_runs(("compute_efficiency",), runs, closed=False)
    assert "prompts of about 2,000 tokens" in prompts
    [larger] = further_runs(("step_s",), runs, closed=False)
    assert "about 4 requests in flight" in larger
    # An engine that decodes so many at once learns nothing from more.
    [fewer] = further_runs(("step_s",), [(rows, [200.0] * 60)], closed=False, most=256)
    assert "about 50 requests in flight (until now up to 200)" in fewer
    [loop] = further_runs(("client_token_s",), runs, closed=True)
    assert "stalls" in loop
    waiting = [replace(row, ttft_s=0.05 + 0.2 * i, e2e_s=0.5 + 0.2 * i) for i, row in enumerate(rows)]
    full = [(waiting, in_flight(waiting))]
    assert any("half the rate" in line for line in further_runs((), full, closed=False))
    assert not any("half the rate" in line for line in further_runs((), [*runs, *full], closed=False))


def test_a_front_end_that_was_not_told_says_from_which_rate_on() -> None:
    (note,) = front_end_left(2e-3, 1.0, 12.0)
    assert "up to 10 ms on a request" in note
    assert "from 97 requests a second on (until now 12)" in note
    assert "--enable-per-request-metrics" not in note
    (note,) = front_end_left(2e-3, 1.0, 12.0, server_times=True)
    assert "or by this one again, with --enable-per-request-metrics on vLLM's server" in note
    assert front_end_left(2e-3, 1.0, 5.0) == [], "nobody asks for so many times the rate"


def test_a_log_of_another_size_is_said() -> None:
    assert another_size([None, 2], 2) == []
    (note,) = another_size([None, 4, 4], 1)
    assert "tp 4 and the scenario has tp 1" in note


def test_a_log_of_another_model_is_said_where_its_name_is_known() -> None:
    names = ["meta-llama/Llama-3.1-8B-Instruct", "/models/Llama-3.1-8B-Instruct/", "chat", None]
    assert another_model(names, "llama-3.1-8b") == []
    (note,) = another_model(["chat", "Qwen/Qwen3-32B", "Qwen/Qwen3-32B"], "llama-3.1-8b")
    assert "Qwen/Qwen3-32B" in note
    assert "llama-3.1-8b" in note
    assert note[-1].isalpha(), "a report ends it with a full stop of its own"


def test_constants_that_no_engine_has_ask_for_the_deployment() -> None:
    """A run of a larger model looks like a slow host, one of a faster GPU like a perfect one."""
    free = CONSTANTS["roofline"]
    usual = {constant.name: constant.start for constant in free}
    assert strange(free, {**usual, "step_s": 5 * usual["step_s"], "client_token_s": 1e-8}, usual) == []
    assert strange(free, {**usual, "memory_efficiency": 0.6}, usual) == []
    assert strange(free, {**usual, "memory_efficiency": 0.45}, usual) != []
    (note,) = strange(free, {**usual, "step_s": 12 * usual["step_s"], "compute_efficiency": 1.0}, usual)
    assert "12 times what is usual" in note
    assert "compute_efficiency 1 (at the end of its range)" in note


def test_what_no_run_tells_from_a_step_is_said() -> None:
    step = StepParts(1e-3, 6e-3, 1e-3, 0.0, 0.0, 1e-3, 1e-3)
    [links, experts] = left_assumed(step, 24, 0.5)
    assert "GPUs exchange for 10% of a step of 24 requests: assumed and not fitted" in links
    assert "routing_skew 0.5" in experts
    assert left_assumed(replace(step, collective_s=1e-4), 24, None) == []


def test_a_fit_on_two_gpus_says_that_links_were_not_looked_for(alone: EngineFit) -> None:
    assert not any("GPUs exchange" in note for note in alone.notes)
    few = {"parallel.tp": 2, "workload.requests": 30, **SLOW}
    found = fit_engine(load_scenario(None, {**BASE, **few}), measured(few))
    assert any("GPUs exchange for" in note for note in found.notes)


def test_two_batch_sizes_tell_what_each_alone_cannot() -> None:
    rows = [Measured(0.5 * i, 500, 20, 0.05, 0.45, 0) for i in range(60)]
    few = (rows, [1.0] * 60)
    many = (rows, [16.0] * 60)
    assert "one batch size" in limits_of_all([few], list(TRUTH))[0]["request_s"]
    assert "request_s" in limits_of_all([few, few], list(TRUTH))[0]
    assert "request_s" not in limits_of_all([few, many], list(TRUTH))[0]


def test_errors_of_several_runs_are_the_farthest() -> None:
    first, second = {"ttft": {"p50": -0.2, "p90": 0.1}}, {"ttft": {"p50": 0.1, "p90": 0.3}}
    assert farthest([first, second]) == {"ttft": {"p50": -0.2, "p90": 0.3}}


def test_a_feature_that_stalls_decide_counts_for_less_and_lengths_do_not_matter() -> None:
    real = [Measured(0.1 * i, 100 + 40 * i, 20, 0.02 + 1e-3 * i, 0.5 + 1e-2 * i) for i in range(60)]
    flight = in_flight(real)
    slow = [replace(row, ttft_s=0.9 * row.ttft_s, e2e_s=0.9 * row.e2e_s) for row in real]
    assert max(feature_errors(slow, real, flight)) < 1e-9
    stalled = [row.later(1.0) if i % 20 == 7 else row for i, row in enumerate(real)]
    errors = feature_errors(real, stalled, flight)
    assert len(errors) == len(features(real, stalled, flight))
    mean, median = errors[0], errors[3]
    assert mean > 0.2 > median


def test_bands_are_those_of_the_clock_again_at_loads_the_run_never_held(
    alone: EngineFit, logs: tuple[EngineLog, EngineLog], tmp_path: Path
) -> None:
    scenario = load_scenario(None, {**BASE, **SLOW})
    path = tmp_path / "fitted.json"
    document = fit_document(alone, scenario, logs[0], [])
    path.write_text(json.dumps(document))
    fitted = {**BASE, "latency.model": "fitted", "latency.name": str(path), "accuracy.ensemble": 0}
    low, high = document["in_flight"]
    results = {}
    for name, rate in (("seen", 1.0), ("unseen", 30.0)):
        run = Run(load_scenario(None, {**fitted, "workload.rate": rate}))
        run.execute()
        results[name] = run.result(["kvplan"])
        warned = [text for text in results[name]["warnings"] if "were in flight" in text]
        assert len(warned) == (name == "unseen")
        if warned:
            assert f"{low:.3g} to {high:.3g}" in warned[0]
    clock = Run(load_scenario(None, fitted)).clock
    assert clock.bands is not None
    assert clock.seen is not None
    assert clock.bands["tpot"][1] == pytest.approx(SEEN_SHARE * clock.seen.bands["tpot"][1])
    for name, share in (("seen", SEEN_SHARE), ("unseen", None)):
        result = results[name]
        tpot, ttft = (result["latency"][key] for key in ("tpot_s", "ttft_s"))
        count, whole = result["latency"]["e2e_s"]["count"], clock.seen.bands
        in_flight = result["latency"]["e2e_s"]["mean"] * result["throughput"]["requests_per_s"]
        assert count == 100
        wider = clock.seen.wider(in_flight)
        assert (wider == 1.0) == (name == "seen")
        intervals = result["accuracy"]["intervals"]
        reach = (share or wider) * whole["tpot"][1]
        assert intervals["tpot_s"]["p50"][1] == pytest.approx(tpot["p50"] * (1 + reach), rel=0.01)
        # Of the slowest requests a run has few, at any load.
        inside = ttft["p99"] - clock.client.seconds
        highest = inside * (1 + wider * whole["ttft"][1]) + clock.client.high_s + clock.tail_s
        assert intervals["ttft_s"]["p99"][1] == pytest.approx(highest, rel=0.01)


def test_bands_widen_with_the_distance_from_what_a_run_held() -> None:
    seen = Seen(4.0, 10.0, SEEN_SHARE, {})
    assert seen.holds(4.0 / AROUND)
    assert seen.holds(10.0 * AROUND)
    assert not seen.holds(3.9 / AROUND)
    assert not seen.holds(10.1 * AROUND)
    widths = [seen.wider(load) for load in (5.0, 20.0, 30.0, 60.0, 200.0, 1000.0)]
    assert widths == sorted(widths)
    assert widths[:2] == [1.0, 1.0]
    assert widths[2] > 1.2
    assert widths[-2:] == [WIDEST, WIDEST]
    assert seen.wider(1.0) == seen.wider(40.0)
    # Less than one request at a time is as one.
    assert Seen(0.3, 0.5, SEEN_SHARE, {}).holds(2.0)


@pytest.mark.parametrize("given", [[1.0], [3.0, 2.0], "x", [-1, 2], [1, "2"]])
def test_a_file_whose_load_is_no_range_is_refused(
    alone: EngineFit, logs: tuple[EngineLog, EngineLog], given: object, tmp_path: Path
) -> None:
    scenario = load_scenario(None, {**BASE, **SLOW})
    path = tmp_path / "fitted.json"
    path.write_text(json.dumps({**fit_document(alone, scenario, logs[0], []), "in_flight": given}))
    with pytest.raises(SpecError, match="no range of requests"):
        Run(load_scenario(None, {**BASE, "latency.model": "fitted", "latency.name": str(path)}))


def written(log: EngineLog, path: Path, count: int = 40) -> str:
    """The first requests of a log as a file."""
    lines = ["start_s,prompt_tokens,output_tokens,ttft_s,e2e_s"]
    lines += [
        f"{row.arrival_s},{row.prompt_tokens},{row.output_tokens},{row.ttft_s},{row.e2e_s}"
        for row in log.rows[:count]
    ]
    path.write_text("\n".join(lines))
    return str(path)


def test_the_command_takes_a_log_for_each_run(
    logs: tuple[EngineLog, EngineLog], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow, fast = (written(log, tmp_path / log.path) for log in logs)
    scenario, out = tmp_path / "s.yaml", tmp_path / "fitted.json"
    scenario.write_text("model: llama-3.1-8b\ngpu: h100-sxm\ncache: {prefix: none}\n")
    words = ["calibrate", "--scenario", str(scenario), "-o", str(out), "--engine-log", slow, "--engine-log"]
    assert cli([*words, slow]) == 2
    assert "given twice" in capsys.readouterr().err
    three = [word for limit in ("0", "8", "8") for word in ("--max-in-flight", limit)]
    assert cli([*words, fast, *three]) == 2
    assert "3 limits for 2 logs" in capsys.readouterr().err
    assert cli([*words, fast, "--max-in-flight", "0"]) == 0
    text = capsys.readouterr().out
    assert "The run slow.csv: 40 requests" in text
    assert "The run fast.csv: 40 requests" in text
    assert "Fitted on 40 requests, tested on 40 others" in text
    document = json.loads(out.read_text())
    assert [Path(log["path"]).name for log in document["logs"]] == ["slow.csv", "fast.csv"]
    assert [Path(item["path"]).name for item in document["inputs"]] == ["slow.csv", "fast.csv", "s.yaml"]
