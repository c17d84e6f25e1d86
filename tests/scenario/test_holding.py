"""``cache.allocation``, ``cache.retention`` and ``sampling`` from a scenario to a result."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import KvplanError, UsageError
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

POOL = {
    "cache.blocks": 2500,
    "engine.max_model_len": 16_384,
    "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8,
    "workload.synthesize": "chat", "workload.requests": 60, "workload.rate": 4.0,
    "accuracy.ensemble": 0,
}  # fmt: skip

MODEL = {
    "model": "llama-3.1-8b", "gpu": "h100-sxm",
    "workload.synthesize": "chat", "workload.requests": 40, "workload.rate": 4.0,
    "accuracy.ensemble": 0,
}  # fmt: skip


def result(flags: dict[str, Any], *assignments: str) -> dict[str, Any]:
    run = Run(load_scenario(None, flags, assignments))
    run.execute()
    return run.result(["kvplan"])


def figures(document: dict[str, Any], section: str) -> dict[str, Any]:
    return {metric["name"]: metric["value"] for metric in document["strategies"][section]}


@pytest.mark.parametrize(
    ("spelled", "policy"),
    [("streaming:4+1020", "streaming:4+1020"), ("h2o:0.2", "h2o:0.2"), ("H2O:1k", "h2o:1024"),
     ("snapkv:0.25", "snapkv:0.25")],
)  # fmt: skip
def test_tokens_are_dropped_and_the_result_says_what_that_costs(spelled: str, policy: str) -> None:
    document = result(POOL, f"cache.retention={spelled}")
    found = figures(document, "retention")
    assert found["policy"] == policy
    assert found["dropped_tokens"] > 0
    assert document["totals"]["finished"] == 60
    assert document["totals"]["queried_tokens"] == 0
    assert document["scenario"]["cache"]["prefix"] == "none"
    (warning,) = [text for text in document["warnings"] if text.startswith(policy)]
    assert "middle of a long context" in warning


def test_an_echoed_scenario_is_a_scenario() -> None:
    for assignment in (
        "cache.retention=streaming:4+1020",
        "cache.allocation=slots",
        "sampling={n: 2, mode: beam}",
    ):
        scenario = load_scenario(None, POOL, [assignment])
        again = type(scenario).model_validate(scenario.to_dict())
        assert again == scenario


def test_allocations_report_where_memory_goes() -> None:
    paged = figures(result(POOL, "cache.allocation={report: fragmentation}"), "allocation")
    slots = figures(result(POOL, "cache.allocation=slots"), "allocation")
    oracle = figures(result(POOL, "cache.allocation={kind: slots, reserve: oracle}"), "allocation")
    assert paged["kind"] == "paged:16"
    assert paged["internal_fragmentation"] < oracle["internal_fragmentation"] + 0.1
    assert oracle["internal_fragmentation"] < slots["internal_fragmentation"]
    assert slots["kind"] == "slots:max"


def test_copies_of_regions_are_timed_by_the_gpu() -> None:
    document = result(MODEL, "cache.allocation={kind: contiguous, growth: chunk, chunk: 256, fit: best}")
    found = figures(document, "allocation")
    assert found["moves"] > 0
    assumed = {item["name"]: item["value"] for item in document["assumptions"]}
    speed = assumed["cache.allocation.copy_bytes_per_s"]
    assert found["moved_s"] == pytest.approx(found["moved_bytes"] / speed)
    given = result(POOL, "cache.allocation={kind: contiguous, bytes_per_token: 1000, copy_bytes_per_s: 1GB}")
    again = figures(given, "allocation")
    assert again["moved_s"] == pytest.approx(again["moved_bytes"] / 1e9)


def test_a_quantized_cache_keeps_a_buffer_in_full_precision() -> None:
    document = result(MODEL, "cache.dtype=kivi2", "cache.retention=kivi")
    # 128 tokens of 131,072 bytes in blocks of 16 tokens at 24,576: 2 bits, scales by 32.
    block_bytes = 16 * (2 * 8 * 128 * 2 // 8 + 2 * 8 * 128 * 4 // 32) * 32
    assert figures(document, "retention")["buffer_blocks"] == -(-128 * 131_072 // block_bytes)


def test_samples_share_their_prompt() -> None:
    fork = result(MODEL, "sampling.n=4")
    apart = result(MODEL, "sampling={n: 4, fork: requests}")
    beams = result(MODEL, "sampling={n: 4, mode: beam}")
    for document in (fork, apart, beams):
        assert document["totals"]["requests"] == document["totals"]["finished"] == 40
        assert figures(document, "sampling")["samples"] == 4
        assert any("as long as its answer" in text for text in document["warnings"])
    assert fork["totals"]["output_tokens"] == apart["totals"]["output_tokens"]
    assert figures(fork, "sampling")["copied_bytes"] == figures(fork, "sampling")["copies"] * 16 * 131_072
    assert figures(beams, "sampling")["trunk_lag"] == 6
    assert beams["totals"]["peak_used_blocks"] < fork["totals"]["peak_used_blocks"]
    alone = result(MODEL, "sampling.n=1")
    assert alone["strategies"] == {}


def test_an_ensemble_runs_the_strategy_too() -> None:
    document = result({**MODEL, "accuracy.ensemble": 2}, "cache.retention=streaming:4+1020")
    assert document["complete"]
    assert figures(document, "retention")["policy"] == "streaming:4+1020"


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["cache.retention=streaming:4"], "sink and window"),
        (["cache.retention=lru"], "unknown retention"),
        (["cache.retention=vllm"], "whose layouts sizing bills"),
        (["cache.retention=h2o:0"], "above 0"),
        (["cache.retention=snapkv:2"], "at most 1"),
        (["cache.retention=h2o:0.2", "cache.prefix=hash"], "found by their content"),
        (["cache.allocation=slots", "cache.prefix=hash"], "found by their content"),
        (["cache.allocation=buddy"], "'paged', 'slots' or 'contiguous'"),
        (["cache.allocation={kind: slots, growth: chunk}"], "belongs to contiguous"),
        (["cache.allocation={kind: paged, fit: best}"], "belongs to slots and contiguous"),
        (["cache.allocation={kind: contiguous, growth: chunk}"], "'chunk' in tokens"),
        (["cache.allocation={kind: contiguous, when_full: preempt, copy_bytes_per_s: 1GB}"], "copies nothing"),
        (["sampling.n=0"], "greater than or equal to 1"),
        (["sampling={n: 2, mode: beam, fork: requests}"], "copy-on-write"),
        (["sampling={n: 2, trunk_lag: 4}"], "is of beams"),
        (["sampling={n: 2, mode: beam}", "cache.prefix=hash"], "not the answer"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(assignments: list[str], says: str) -> None:
    with pytest.raises(KvplanError, match=says):
        load_scenario(None, POOL, assignments)


@pytest.mark.parametrize(
    ("flags", "assignments", "says"),
    [
        (POOL, ["cache.retention=streaming:1+8"], "less than a block"),
        (POOL, ["cache.retention=h2o:8"], "less than a block"),
        (POOL, ["cache.retention=h2o:0.001", "engine.max_model_len=4k"], "less than a block"),
        (POOL, ["cache.retention=h2o:0.12345"], "three decimals"),
        (POOL, ["cache.retention=kivi"], "without 'model' and 'gpu'"),
        (MODEL, ["cache.retention=kivi"], "no tokens in full precision"),
        (MODEL, ["model=deepseek-v2-lite", "cache.retention=h2o:0.2"], "keeps latents"),
        (MODEL, ["model=mamba-2.8b", "cache.retention=h2o:0.2"], "keep a state"),
        (MODEL, ["model=gemma-2-2b", "cache.retention=h2o:0.2"], "one group of full attention"),
        (MODEL, ["model=gemma-2-2b", "sampling.n=2"], "one group of full attention"),
        (POOL, ["cache.retention=h2o:0.2", "cache.allocation=slots"], "not simulated together"),
        (POOL, ["cache.retention=h2o:0.2", "sampling.n=2"], "not simulated together"),
        (POOL, ["cache.allocation=slots", "engine.max_model_len=64k"], "larger than the pool"),
        (POOL, ["cache.allocation=contiguous"], "without 'model' and 'gpu'"),
        (POOL, ["cache.allocation={kind: contiguous, bytes_per_token: 9}"], "without a 'gpu'"),
        (POOL, ["sampling.n=257"], "never run together"),
        (POOL, ["engine.kind=sglang", "sampling.n=2"], "vLLM's scheduler only"),
        (POOL, ["engine.kind=sglang", "cache.prefix=none", "cache.retention=h2o:0.2"], "vLLM's scheduler only"),
        (POOL, ["parallel.replicas=2", "sampling.n=2"], "one replica"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_by_name(
    flags: dict[str, Any], assignments: list[str], says: str
) -> None:
    if "engine.kind=sglang" in assignments:
        flags = {name: value for name, value in flags.items() if name != "engine.max_model_len"}
    with pytest.raises(UsageError, match=says):
        Run(load_scenario(None, flags, assignments)).execute()


@pytest.mark.parametrize(
    ("assignments", "where"),
    [
        (["cache.retention=h2o:0.2", "sampling.n=2"], "cache.retention, sampling"),
        (["cache.allocation=slots", "parallel.dp_attention=true", "parallel.tp=2"], "cache.allocation, parallel.dp_attention"),
        (["cache.reuse_granularity=64", "sampling.n=2"], "cache.reuse_granularity, sampling"),
    ],
)  # fmt: skip
def test_strategies_that_do_not_go_together_say_where_they_are_asked_for(
    assignments: list[str], where: str
) -> None:
    with pytest.raises(UsageError, match="not simulated together") as caught:
        Run(load_scenario(None, POOL, assignments)).execute()
    assert caught.value.where == where
