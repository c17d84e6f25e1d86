"""``speculative``: from a scenario to memory, decisions, times and the words about them."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import KvplanError, UsageError
from kvplan.reporting.result import Result
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run
from kvplan.sizing.flags import engine_flags

LINEAR = {
    "cache.blocks": 4001, "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8,
}  # fmt: skip
FIXED = {
    "workload.synthesize": "fixed", "workload.requests": 40, "workload.rate": 2.0, "accuracy.ensemble": 0,
    "workload.prompt_tokens": 500, "workload.output_tokens": 60,
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


def test_a_linear_clock_has_steps_with_drafts_and_says_what_it_leaves_out() -> None:
    _, plain = run(LINEAR)
    _, drafted = run(LINEAR, "speculative={tokens: 3, acceptance: 1.0}")
    assert figures(drafted)["acceptance_length"] == pytest.approx(4.0, rel=0.02)
    assert drafted["latency"]["tpot_s"]["p50"] < 0.5 * plain["latency"]["tpot_s"]["p50"]
    assert any("linear clock" in words for words in drafted["warnings"])
    assert "speculative.rates" in {item["name"] for item in drafted["assumptions"]}
    assert drafted["scenario"]["speculative"]["tokens"] == 3
    assert plain["scenario"]["speculative"] is None


def test_the_models_own_layer_takes_memory_and_time() -> None:
    plain_run, plain = run(DEEPSEEK)
    drafted_run, drafted = run(DEEPSEEK, "speculative={acceptance: 0.85}")
    plain_fit, fit = plain_run.deployment.fit, drafted_run.deployment.fit
    assert plain_fit is not None
    assert fit is not None
    assert fit.weights_bytes > plain_fit.weights_bytes
    assert fit.kv_tokens < plain_fit.kv_tokens
    assert '"method":"mtp","num_speculative_tokens":1' in str(engine_flags(fit)["vllm"])
    assert drafted["step_time"]["parts"]["drafts"] > 0.005
    assert plain["step_time"]["parts"]["drafts"] == 0.0
    assert 0.5 < drafted["latency"]["tpot_s"]["p50"] / plain["latency"]["tpot_s"]["p50"] < 0.8
    # Nothing stands: drafts only cost.
    _, vain = run(DEEPSEEK, "speculative={acceptance: 0.0}")
    assert vain["latency"]["tpot_s"]["p50"] > plain["latency"]["tpot_s"]["p50"]


def test_another_model_drafts_pass_by_pass() -> None:
    seconds = []
    for drafts in (1, 2, 4):
        found, document = run(LLAMA, f"speculative={{{DRAFT}, tokens: {drafts}, acceptance: 0.0}}")
        assert found.deployment.fit is not None
        assert f'num_speculative_tokens":{drafts}' in str(engine_flags(found.deployment.fit)["vllm"])
        seconds.append(document["latency"]["tpot_s"]["p50"])
    # Each further draft is a pass of the small model; verifying four tokens instead of one costs next to nothing.
    assert seconds[0] < seconds[1] < seconds[2]
    assert (seconds[2] - seconds[1]) == pytest.approx(2 * (seconds[1] - seconds[0]), rel=0.35)


def test_an_ensemble_moves_both_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, document = run(
        {**LLAMA, "accuracy.ensemble": 4}, f"speculative={{{DRAFT}, tokens: 2, acceptance_length: 2.2}}"
    )
    low, high = document["accuracy"]["intervals"]["tpot_s"]["p50"]
    assert low < document["latency"]["tpot_s"]["p50"] < high
    assert figures(document)["acceptance_length"] == pytest.approx(2.2, rel=0.1)


def test_a_sweep_can_count_drafts_and_a_measured_clock_knows_them() -> None:
    _, document = run(
        {**LLAMA, "latency.model": "profile"},
        f"speculative={{{DRAFT}, tokens: 3, acceptance: [0.8, 0.6, 0.5]}}",
    )
    assert [item["value"] for item in document["assumptions"] if item["name"] == "speculative.rates"] == [
        "0.8, 0.6, 0.5"
    ]
    assert document["step_time"]["parts"]["drafts"] > 0.05


def test_prompt_lookup_has_no_drafter() -> None:
    found, document = run(LLAMA, "speculative={method: ngram, tokens: 3, acceptance: 0.4}")
    fit = found.deployment.fit
    assert fit is not None
    assert '"method":"ngram","num_speculative_tokens":3' in str(engine_flags(fit)["vllm"])
    assert fit.serving.async_scheduling
    assert document["step_time"]["parts"]["drafts"] == 0.0
    assert any("looking them up" in words for words in document["warnings"])


@pytest.mark.parametrize(
    ("method", "version", "words"),
    [
        ("ngram", "0.32", "vLLM 0.32 does not schedule ahead where drafts are looked up"),
        (DRAFT, "0.27", "vLLM 0.27 does not schedule ahead where another model drafts"),
    ],
)
def test_older_versions_do_not_plan_ahead_beside_every_drafter(method: str, version: str, words: str) -> None:
    part = f"speculative={{{method if ':' in method else f'method: {method}'}, tokens: 3, acceptance: 0.5}}"
    found, document = run({**LLAMA, "engine.version": version}, part)
    fit = found.deployment.fit
    assert fit is not None
    assert not fit.serving.async_scheduling
    assert any(words in warning for warning in document["warnings"])


@pytest.mark.parametrize("prefix", ["hash", "none"])
def test_a_draft_has_a_state_of_its_own(prefix: str) -> None:
    hybrid = {"model": "qwen3-next-80b-a3b", "gpu": "h200-sxm", "parallel.tp": 2, "cache.prefix": prefix}
    _, plain = run(hybrid)
    _, drafted = run(hybrid, "speculative={method: mtp, tokens: 1, acceptance: 0.9}")
    assert drafted["totals"]["finished"] == plain["totals"]["finished"] == 40
    assert drafted["latency"]["tpot_s"]["p50"] < 0.8 * plain["latency"]["tpot_s"]["p50"]


def test_windows_have_drafts_too() -> None:
    _, plain = run({"model": "gemma-3-12b", "gpu": "h100-sxm"})
    _, drafted = run(
        {"model": "gemma-3-12b", "gpu": "h100-sxm"}, "speculative={method: ngram, tokens: 3, acceptance: 0.6}"
    )
    assert drafted["totals"]["finished"] == plain["totals"]["finished"] == 40
    assert drafted["latency"]["tpot_s"]["p50"] < 0.7 * plain["latency"]["tpot_s"]["p50"]


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("speculative={tokens: 2}", "say how many drafts are accepted"),
        ("speculative={tokens: 2, acceptance: 0.5, acceptance_length: 2}", "once"),
        ("speculative={tokens: 2, acceptance: [0.5]}", "1 acceptance rates for 2 drafts"),
        ("speculative={tokens: 2, acceptance: [0.5, 0.6]}", "rise"),
        ("speculative={tokens: 2, acceptance_length: 3.5}", "cannot yield 3.5"),
        ("speculative={tokens: 0, acceptance: 0.5}", "greater than or equal to 1"),
        ("speculative={acceptance: 1.5}", "acceptance"),
        ("speculative={acceptance: yes}", "acceptance"),
        ("speculative={method: eagle, acceptance: 0.5}", "eagle needs a model"),
        ("speculative={method: medusa, acceptance: 0.5}", "mtp"),
        ("speculative={model: llama-3.2-1b, acceptance: 0.5}", "leave it out, or say eagle"),
    ],
)
def test_parts_that_contradict_themselves(assignment: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_scenario(None, {**FIXED, **LINEAR}, [assignment])


@pytest.mark.parametrize(
    ("flags", "assignment", "words"),
    [
        (LLAMA, "speculative={acceptance: 0.5}", "no multi-token-prediction layers"),
        ({**LLAMA, "engine.kind": "sglang"}, "speculative={method: ngram, acceptance: 0.5}", "vLLM's scheduler"),
        ({**LLAMA, "sampling.n": 2}, "speculative={method: ngram, acceptance: 0.5}", "not simulated together"),
        ({**LLAMA, "parallel.cp": 2}, "speculative={method: ngram, acceptance: 0.5}", "share a context"),
        (LLAMA, "speculative={method: eagle, model: llama-3.2-1b, acceptance: 0.5}", "hidden size of 2,048"),
        (LLAMA, "speculative={method: draft_model, model: no-such, acceptance: 0.5}", "no-such"),
    ],
)  # fmt: skip
def test_what_drafts_do_not_go_with(flags: dict[str, Any], assignment: str, words: str) -> None:
    with pytest.raises((UsageError, KvplanError), match=words):
        run(flags, assignment)


STEP = {"model": "step-3.7-flash", "gpu": "h100-sxm", "parallel.tp": 8}


def test_prediction_layers_draft_in_turns() -> None:
    found, document = run(STEP, "speculative={tokens: 3, acceptance: 1.0}")
    assert figures(document)["acceptance_length"] == pytest.approx(4.0, rel=0.03)
    fit = found.deployment.fit
    assert fit is not None
    (draft,) = {page.store.reach for page in fit.binding.pool.pages[-3:] if page.store is not None}
    assert draft == "window"
    one = run(STEP, "speculative={tokens: 1, acceptance: 1.0}")[1]
    three, single = (
        item["step_time"]["parts"]["drafts"] / item["totals"]["steps"] for item in (document, one)
    )
    assert three > 2.5 * single


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (("speculative={tokens: 4, acceptance: 0.5}",), "no multiple"),
        (("speculative={tokens: 2, acceptance: 0.5}", "engine.version='0.27'"), "0.28"),
    ],
)
def test_drafts_that_prediction_layers_cannot_share_out(assignments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(STEP, *assignments)
