"""Auditing a result: equal engines, planted differences, changed inputs, inconsistent numbers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kvplan.scenario.system as systems
from kvplan.engine.engine import make_engine
from kvplan.errors import DataError, UsageError
from kvplan.scenario.audit import audit_result
from kvplan.scenario.conservation import check_laws
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

FLAGS = {
    "latency.model": "linear", "latency.a": 0.005, "latency.b": 2e-5, "latency.c": 1e-8,
    "cache.blocks": 400, "engine.max_num_batched_tokens": 1024, "engine.max_model_len": 6000,
}  # fmt: skip
CHAT = {"workload.synthesize": "chat", "workload.requests": 60, "workload.rate": 20.0}


def simulate(**flags: Any) -> dict[str, Any]:
    run = Run(load_scenario(None, {**FLAGS, **CHAT, **{k.replace("__", "."): v for k, v in flags.items()}}))
    run.execute()
    document = run.result(["kvplan", "simulate"])
    return json.loads(json.dumps(document))


@pytest.fixture(scope="module")
def chat() -> dict[str, Any]:
    return simulate()


def test_a_sound_result_passes(chat: dict[str, Any]) -> None:
    found = audit_result(chat)
    assert found.passed
    assert found.requests == 60
    assert found.steps == chat["totals"]["steps"]
    assert found.checks[-1].name == "totals are those of a fresh run"
    assert not found.notes


def test_a_sample_is_a_part_and_is_not_compared_with_the_totals(chat: dict[str, Any]) -> None:
    found = audit_result(chat, 10)
    assert found.passed
    assert found.requests == 10
    assert 0 < found.steps < chat["totals"]["steps"]
    assert "totals are those of a fresh run" not in [check.name for check in found.checks]


def test_pools_of_several_groups_are_played_through_both_engines() -> None:
    groups = [{"kind": "full"}, {"kind": "sliding", "window": 128}]
    found = audit_result(simulate(cache__groups=groups), 20)
    assert found.passed
    assert not found.notes


@pytest.mark.parametrize("model", ["gpt-oss-20b", "qwen3-next-80b-a3b"])
def test_pools_of_sglang_beside_its_tokens_are_played_through_both_engines(model: str) -> None:
    flags = {"engine.kind": "sglang", "model": model, "gpu": "h200", "parallel.tp": 2, **CHAT}
    clock = {name: value for name, value in FLAGS.items() if name.startswith("latency.")}
    run = Run(load_scenario(None, {**flags, **clock}))
    run.execute()
    found = audit_result(json.loads(json.dumps(run.result(["kvplan", "simulate"]))))
    assert found.passed
    assert found.checks[-1].name == "totals are those of a fresh run"
    assert not found.notes


def test_what_has_one_engine_only_says_so() -> None:
    groups = [{"kind": "full", "block_size": 16}, {"kind": "full", "block_size": 32}]
    found = audit_result(simulate(cache__groups=groups), 20)
    assert found.passed
    assert "block by block under either name" in found.notes[0]


def test_a_strategy_says_that_it_was_played_against_itself() -> None:
    found = audit_result(simulate(cache__reuse_granularity=64), 20)
    assert found.passed
    assert "cache.reuse_granularity has one implementation" in found.notes[0]


@pytest.mark.parametrize("flags", [{"parallel__replicas": 2}, {"cache__eviction": "lfu"}])
def test_what_only_the_fast_engine_simulates_is_refused(flags: dict[str, Any]) -> None:
    document = simulate(**flags)
    with pytest.raises(UsageError):
        audit_result(document, 5)


def planted(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    def make(name: str, config: Any, latency: Any, recorder: Any, **options: Any) -> Any:
        if name == "fast":
            config, recorder = wrong(config, recorder)
        return make_engine(name, config, latency, recorder, **options)

    monkeypatch.setattr(systems, "make_engine", make)


def test_the_first_different_decision_is_named(chat: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, lambda config, recorder: (replace(config, max_num_seqs=2), recorder))
    found = audit_result(chat)
    assert not found.passed
    difference = found.divergence
    assert difference is not None
    assert difference.kind == "decision"
    assert difference.fast != difference.reference
    # Up to there they agreed: two requests run, a third is admitted by the reference alone.
    assert difference.reference is not None
    assert difference.fast is not None
    assert difference.reference.split("|")[2] == "3"
    assert difference.fast.split("|")[2] == "2"


def test_an_engine_that_stops_early_diverges_where_it_stops(
    chat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(config: Any, recorder: Any) -> tuple[Any, Any]:
        if recorder.on_decision is not None:
            keep = recorder.on_decision
            lines: list[str] = []
            recorder.on_decision = lambda line: (lines.append(line), len(lines) <= 5 and keep(line))
        return config, recorder

    planted(monkeypatch, wrong)
    difference = audit_result(chat).divergence
    assert difference is not None
    assert (difference.step, difference.fast) == (5, None)


def test_a_difference_only_without_a_log_is_found(
    chat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(config: Any, recorder: Any) -> tuple[Any, Any]:
        if recorder.on_decision is None:
            config = replace(config, max_num_seqs=2)
        return config, recorder

    planted(monkeypatch, wrong)
    difference = audit_result(chat).divergence
    assert difference is not None
    assert difference.kind == "request"


MOONCAKE = '{"timestamp": %d, "input_length": 700, "output_length": 4, "hash_ids": [1, %d]}\n'


@pytest.fixture
def traced(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(MOONCAKE % (i * 100, i + 2) for i in range(20)))
    run = Run(load_scenario(None, {**FLAGS, "workload.trace": str(trace)}))
    run.execute()
    return trace, run.result(["kvplan"])


def test_a_changed_input_is_an_error_that_names_it(traced: tuple[Path, dict[str, Any]]) -> None:
    trace, result = traced
    assert audit_result(result).passed
    trace.write_text(trace.read_text().replace('"timestamp": 0', '"timestamp": 1'))
    with pytest.raises(DataError) as caught:
        audit_result(result)
    assert caught.value.where == str(trace)
    assert "has changed" in caught.value.message
    trace.unlink()
    with pytest.raises(DataError, match="not there any more"):
        audit_result(result)


def test_a_trace_from_standard_input_cannot_be_audited(traced: tuple[Path, dict[str, Any]]) -> None:
    result = copy.deepcopy(traced[1])
    result["scenario"]["workload"]["trace"] = "-"
    with pytest.raises(DataError, match="standard input"):
        audit_result(result)


def broken(document: dict[str, Any]) -> list[str]:
    return [check.name for check in check_laws(document) if not check.passed]


@pytest.mark.parametrize(
    ("path", "value", "law"),
    [
        (("totals", "finished"), 59, "every request finished, was rejected, timed out or is unfinished"),
        (("totals", "hit_tokens"), 10**9, "hits are part of the tokens looked up"),
        (("totals", "peak_used_blocks"), 400, "no more blocks in use than the pool has"),
        (("totals", "evicted_blocks"), 10**9, "no more blocks evicted than allocated"),
        (("totals", "preemptions"), -1, "counters end at or below their totals"),
        (("provenance", "seed"), 7, "the seed is the scenario's"),
        (("series", "used_blocks", 0), 399, "used and cached blocks never exceed the pool"),
        (("series", "t_s", 0), 1e9, "time and counters never fall"),
        (("latency", "ttft_s", "count"), 1, "every finished request has its latencies"),
        (("latency", "e2e_s", "p50"), 1e9, "quantiles rise"),
        (("latency", "queue_s", "p50"), 1e9, "scheduled before first token before finish"),
        (("throughput", "requests_per_s"), 1.0, "throughput is the totals over the makespan"),
    ],
)
def test_each_law_can_be_broken(chat: dict[str, Any], path: tuple[Any, ...], value: Any, law: str) -> None:
    assert broken(chat) == []
    document = copy.deepcopy(chat)
    node = document
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    if path[:2] == ("series", "used_blocks"):
        document["series"]["cached_blocks"][0] = 1
    assert law in broken(document)


def test_unfinished_requests_of_a_complete_run_are_a_broken_law(chat: dict[str, Any]) -> None:
    document = copy.deepcopy(chat)
    document["totals"]["unfinished"] = document["totals"]["finished"]
    document["totals"]["finished"] = 0
    assert "a complete run leaves no request unfinished" in broken(document)


def test_totals_that_no_run_gives_are_found(chat: dict[str, Any]) -> None:
    document = copy.deepcopy(chat)
    document["totals"]["evicted_blocks"] += 1
    found = audit_result(document)
    assert not found.passed
    assert found.divergence is None
    assert "evicted_blocks: recorded" in found.checks[-1].detail
