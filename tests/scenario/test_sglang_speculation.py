"""``speculative`` with SGLang: from a scenario to memory, decisions, times and the words about them."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.reporting.result import Result
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run
from kvplan.scenario.serve import serve_line

LINEAR = {
    "engine.max_total_tokens": 64_000, "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5,
    "latency.c": 1e-8,
}  # fmt: skip
FIXED = {
    "engine.kind": "sglang", "workload.synthesize": "fixed", "workload.requests": 40, "workload.rate": 2.0,
    "accuracy.ensemble": 0, "workload.prompt_tokens": 500, "workload.output_tokens": 60,
}  # fmt: skip
DEEPSEEK = {"model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8}
LLAMA = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}
DRAFT = "method: draft_model, model: llama-3.2-1b"


def run(flags: dict[str, Any], *assignments: str) -> tuple[Run, dict[str, Any]]:
    found = Run(load_scenario(None, {**FIXED, **flags}, assignments))
    found.execute()
    document = found.result(["kvplan"])
    Result.model_validate(document)
    return found, document


def figures(document: dict[str, Any]) -> dict[str, Any]:
    return {metric["name"]: metric["value"] for metric in document["strategies"]["speculative decoding"]}


def assumed(document: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item["value"] for item in document["assumptions"]}


def test_a_linear_clock_has_steps_with_drafts() -> None:
    _, plain = run(LINEAR)
    _, drafted = run(LINEAR, "speculative={tokens: 3, acceptance: 1.0}")
    assert figures(drafted)["acceptance_length"] == pytest.approx(4.0, rel=0.02)
    assert drafted["latency"]["tpot_s"]["p50"] < 0.5 * plain["latency"]["tpot_s"]["p50"]
    assert any("linear clock" in words for words in drafted["warnings"])
    assert drafted["totals"]["finished"] == plain["totals"]["finished"] == 40


def test_sglang_runs_fewer_requests_beside_drafts() -> None:
    _, plain = run(LINEAR)
    _, drafted = run(LINEAR, "speculative={acceptance: 0.5}")
    _, asked = run({**LINEAR, "engine.max_running_requests": 100}, "speculative={acceptance: 0.5}")
    assert assumed(plain)["engine.max_running_requests"] == 2048
    assert assumed(drafted)["engine.max_running_requests"] == 48
    assert "engine.max_running_requests" not in assumed(asked)
    assert drafted["totals"]["peak_running"] <= 48


def test_the_models_own_layer_takes_memory_and_time() -> None:
    plain_run, plain = run(DEEPSEEK)
    drafted_run, drafted = run(DEEPSEEK, "speculative={acceptance: 0.85, tokens: 3}")
    plain_fit, fit = plain_run.deployment.fit, drafted_run.deployment.fit
    assert plain_fit is not None
    assert fit is not None
    assert fit.kv_tokens < plain_fit.kv_tokens
    assert drafted["step_time"]["parts"]["drafts"] > 0.005
    assert plain["step_time"]["parts"]["drafts"] == 0.0
    assert 0.2 < drafted["latency"]["tpot_s"]["p50"] / plain["latency"]["tpot_s"]["p50"] < 0.6
    # Nothing stands: drafts only cost.
    _, vain = run(DEEPSEEK, "speculative={acceptance: 0.0}")
    assert vain["latency"]["tpot_s"]["p50"] > plain["latency"]["tpot_s"]["p50"]


@pytest.mark.parametrize(
    ("flags", "who", "drafts", "command"),
    [
        (DEEPSEEK, "method: mtp", 2, "NEXTN"),
        (LLAMA, DRAFT, 4, "STANDALONE --speculative-draft-model-path meta-llama/Llama-3.2-1B"),
        (LLAMA, "method: eagle, model: llama-3.1-8b", 1,
         "EAGLE --speculative-draft-model-path meta-llama/Llama-3.1-8B"),
    ],
)  # fmt: skip
def test_the_command_that_starts_it(flags: dict[str, Any], who: str, drafts: int, command: str) -> None:
    part = f"speculative={{{who}, acceptance: 0.8, tokens: {drafts}}}"
    line = serve_line(load_scenario(None, {**FIXED, **flags}, [part]))
    more = f"--speculative-num-steps {drafts} --speculative-eagle-topk 1 --speculative-num-draft-tokens {1 + drafts}"
    assert f"--speculative-algorithm {command} {more} " in str(line)


@pytest.mark.parametrize(
    ("flags", "assignment", "words"),
    [
        ({"engine.version": "0.5.20"}, "speculative={acceptance: 0.5}", "scheduled as SGLang 0.5.23 does"),
        ({"engine.enable_mixed_chunk": True, "engine.max_running_requests": 64},
         f"speculative={{{DRAFT}, acceptance: 0.5}}", "turns mixed chunks off"),
    ],
)  # fmt: skip
def test_what_a_result_says_about_it(flags: dict[str, Any], assignment: str, words: str) -> None:
    _, document = run({**LINEAR, **flags}, assignment)
    assert any(words in said for said in document["warnings"])
