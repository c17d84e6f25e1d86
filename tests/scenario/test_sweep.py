"""A sweep: its points are the simulations one would run alone; failures and interruptions lose nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import Interrupted, UsageError
from kvplan.scenario import outcomes as module
from kvplan.scenario.axes import parse_axis
from kvplan.scenario.figures import FIGURES, figures, hit_ratio, moved_bytes
from kvplan.scenario.highest import Search, parse_bounds
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run
from kvplan.scenario.settling import Stays
from kvplan.scenario.sweep import Sweep

SCENARIO = """\
cache: {blocks: 2000}
engine: {max_model_len: 16k, max_num_batched_tokens: 2048}
latency: {model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8}
workload: {synthesize: chat, requests: 40, rate: 20}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    return str(path)


def plan(scenario: str, *vary: str, **options: Any) -> Sweep:
    return Sweep(scenario, [parse_axis(text) for text in vary], **options)


def test_a_point_is_the_simulation_alone(scenario: str) -> None:
    sweep = plan(scenario, "cache.eviction=lru,lfu", "cache.blocks=1100,2000", count=30)
    sweep.execute()
    document = sweep.document(["kvplan", "sweep"])
    assert document["complete"]
    for point in document["points"]:
        assignments = [f"{key}={value}" for key, value in point["values"].items()]
        run = Run(load_scenario(scenario, None, assignments, count=30))
        stays = Stays()
        run.execute(on_request=stays.add)
        assert point["figures"] == figures(run.result([]), None, stays)
        assert list(point["figures"]) == [*FIGURES, "objectives"]
        assert point["figures"]["finished"] == 30


def test_processes_change_nothing(scenario: str) -> None:
    documents = []
    for jobs in (1, 2):
        sweep = plan(scenario, "cache.blocks=1100,1500,nope", "seed=0,1")
        seen: list[int] = []
        sweep.execute(jobs, seen.append)
        documents.append(sweep.document(["kvplan", "sweep"]))
        assert seen == [3, 4, 5, 6][4 - len(seen) :]
    assert documents[0] == documents[1]


def test_a_failed_point_is_a_row_with_its_reason(scenario: str) -> None:
    sweep = plan(scenario, "cache.blocks=1500,1", "workload.trace=null,/nowhere/x.jsonl")
    sweep.execute()
    rows = sweep.document([])["points"]
    assert [row["status"] for row in rows] == ["done", "failed", "failed", "failed"]
    assert rows[2]["error"]["where"] == "--vary  cache.blocks"
    assert "greater than or equal to 2" in rows[2]["error"]["message"]
    assert all(row["error"]["message"] for row in rows[1:])


def test_a_missing_file_is_a_row_too(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO.replace("synthesize: chat, requests: 40, rate: 20", "trace: x"))
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 700, "output_length": 4, "hash_ids": [1, 2]}\n')
    sweep = plan(str(path), f"workload.trace={trace},{tmp_path}/none.jsonl")
    sweep.execute()
    done, failed = sweep.document([])["points"]
    assert done["figures"]["finished"] == 1
    assert "none.jsonl" in failed["error"]["where"]
    assert [item["path"] for item in sweep.document([])["provenance"]["inputs"]] == [str(trace)]


def test_a_bug_in_one_point_does_not_end_the_others(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: Run, **_: object) -> None:
        if run.scenario.seed == 1:
            raise ZeroDivisionError("oops")

    monkeypatch.setattr(Run, "execute", broken)
    sweep = plan(scenario, "seed=0,1,2")
    sweep.execute()
    assert [outcome is not None and outcome["error"] is None for outcome in sweep.outcomes] == [
        True,
        False,
        True,
    ]
    assert sweep.outcomes[1]["error"]["message"] == "internal error: ZeroDivisionError: oops"  # type: ignore[index]


def _dies(document: dict[str, Any], slower: float) -> dict[str, Any]:
    if document["seed"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {**module.NOT_RUN, "figures": {"seed": document["seed"]}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of forking beside threads
def test_a_point_whose_process_dies_is_found_and_the_rest_goes_on(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "simulate_point", _dies)
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda _: _fork())
    sweep = plan(scenario, "seed=0..4:1")
    sweep.execute(2)
    assert [outcome["error"] is None for outcome in sweep.outcomes if outcome] == [
        True,
        False,
        True,
        True,
        True,
    ]
    assert "died" in sweep.outcomes[1]["error"]["message"]  # type: ignore[index]


def _fork() -> Any:
    """Functions of this file are not importable in a spawned process; a forked one has them."""
    import multiprocessing.context

    return multiprocessing.context.ForkContext()


def test_an_interruption_keeps_what_is_done(scenario: str) -> None:
    sweep = plan(scenario, "seed=0,1,2")

    def enough(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        sweep.execute(1, enough)
    document = sweep.document([])
    assert not document["complete"]
    assert [row["status"] for row in document["points"]] == ["done", "done", "not run"]
    assert document["points"][2]["figures"] is document["points"][2]["error"] is None


def test_standard_input_is_no_trace_of_a_sweep(scenario: str) -> None:
    with pytest.raises(UsageError, match="standard input or a pipe can be read once"):
        Sweep(scenario, [parse_axis("seed=0,1")], flags={"workload.trace": "-"})


def test_nothing_varied_is_no_sweep(scenario: str) -> None:
    with pytest.raises(UsageError, match="nothing is varied"):
        plan(scenario)


def test_no_ensemble_is_simulated(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have no intervals, so the eight simulations around each run would be for nothing."""
    asked = []
    monkeypatch.setattr(Run, "execute", lambda run, **_: asked.append(run.scenario.accuracy.ensemble))
    plan(scenario, "seed=0,1", assignments=["accuracy.ensemble=4"]).execute()
    assert asked == [0, 0]


def metric(name: str, value: object, unit: str = "bytes") -> dict[str, object]:
    return {"name": name, "value": value, "unit": unit, "meaning": ""}


def test_bytes_moved_are_what_strategies_call_so() -> None:
    sections = {
        "tiers": [metric("to_host_bytes", 10), metric("swap_out_bytes", 4), metric("from_disk_bytes", 5)],
        "disaggregation": [metric("moved_bytes", 7), metric("kept_bytes", 99), metric("moved_bytes", None)],
    }
    assert moved_bytes(sections) == 22


def test_hits_below_the_device_are_hits() -> None:
    totals = {"hit_tokens": 1, "queried_tokens": 4}
    assert hit_ratio({"totals": totals, "strategies": {}}) == 0.25
    tiers = {f"tiers {n}": [metric("cached_tokens", 1 + n, "tokens")] for n in (0, 1)}
    assert hit_ratio({"totals": totals, "strategies": tiers}) == 0.75  # of both replicas
    assert hit_ratio({"totals": {"hit_tokens": 0, "queried_tokens": 0}, "strategies": tiers}) is None


def test_no_hits_where_nobody_knows_what_prompts_share_are_not_none() -> None:
    silent = {"totals": {"hit_tokens": 0, "queried_tokens": 4}, "strategies": {}}
    assert hit_ratio({**silent, "trace": {"reuse_known": False}}) is None
    assert hit_ratio({**silent, "trace": {"reuse_known": True}}) == 0.0


def traced(tmp_path: Path, rows: list[str]) -> str:
    """The scenario's path with a trace of these rows in place of its workload."""
    trace, path = tmp_path / "trace.jsonl", tmp_path / "traced.yaml"
    trace.write_text("".join(row + "\n" for row in rows))
    path.write_text(SCENARIO.replace("{synthesize: chat, requests: 40, rate: 20}", f"{{trace: {trace}}}"))
    return str(path)


def test_a_rate_that_changes_nothing_is_no_axis(tmp_path: Path) -> None:
    row = '{"timestamp": 0, "input_length": 20, "output_length": 5}'
    timed = traced(tmp_path, [row, row.replace("0", "900", 1)])
    with pytest.raises(UsageError, match="times of its own") as error:
        plan(timed, "workload.rate=1,2").check_rate()
    assert "rate_scale" in (error.value.hint or "")
    with pytest.raises(UsageError, match="times of its own"):
        Search(timed, parse_bounds("workload.rate=1..2"), assignments=["slo.ttft_p99_s=1"])
    plan(timed, "workload.rate_scale=1,2").check_rate()
    untimed = traced(tmp_path, ['{"input_length": 20, "output_length": 5}'] * 3)
    sweep = plan(untimed, "workload.rate=0.1,2")
    sweep.check_rate()
    sweep.execute()
    slow, fast = (outcome["figures"]["makespan_s"] for outcome in sweep.outcomes if outcome)
    assert slow > 2 * fast


def test_what_reading_the_trace_had_to_say_is_said(tmp_path: Path) -> None:
    row = '{"timestamp": 0, "input_length": 20, "output_length": 5, "priorty": 1}'
    sweep = plan(traced(tmp_path, [row]), "seed=0,1")
    sweep.execute()
    for point in sweep.document(["kvplan", "sweep"])["points"]:
        assert "Trace: not read: 'priorty'" in point["warnings"]
