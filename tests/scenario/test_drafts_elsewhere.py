"""``speculative`` beside ``disaggregation`` and host memory: what is sent, who verifies, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.engine.config import EngineConfig
from kvplan.errors import UsageError
from kvplan.reporting.result import Result
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

FIXED = {
    "workload.synthesize": "fixed", "workload.requests": 40, "workload.rate": 2.0, "accuracy.ensemble": 0,
    "workload.prompt_tokens": 500, "workload.output_tokens": 60,
}  # fmt: skip
LINEAR = {
    "cache.blocks": 4001, "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8,
}  # fmt: skip
POOLS = {"disaggregation.link": "ib-ndr", "disaggregation.lanes": 8}
DEEPSEEK = {"model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8, **POOLS}
MTP = "speculative={method: mtp, tokens: 1, acceptance: 0.85}"
DRAFT = "speculative={method: draft_model, model: llama-3.2-1b, tokens: 2, acceptance: 0.7}"


def play(flags: dict[str, Any], *assignments: str) -> dict[str, Any]:
    given = {key: value for key, value in {**FIXED, **flags}.items() if value is not None}
    run = Run(load_scenario(None, given, assignments))
    run.execute()
    document: dict[str, Any] = run.result(["kvplan"])
    Result.model_validate(document)
    return document


def figures(document: dict[str, Any], section: str = "speculative decoding") -> dict[str, Any]:
    return {metric["name"]: metric["value"] for metric in document["strategies"][section]}


def test_the_decode_pool_verifies_and_the_drafters_cache_is_sent() -> None:
    plain, drafted = play(DEEPSEEK), play(DEEPSEEK, MTP)
    assert figures(drafted)["acceptance_length"] == pytest.approx(1.85, abs=0.05)
    assert drafted["latency"]["tpot_s"]["p50"] < 0.8 * plain["latency"]["tpot_s"]["p50"]
    told = {item["name"]: item for item in drafted["assumptions"]}
    assert "speculative.rates" in told
    assert told["disaggregation.bytes_per_token"]["source"].endswith("and of its drafter")
    sent = [figures(document, "disaggregation")["moved_bytes"] for document in (plain, drafted)]
    assert sent[1] == pytest.approx(sent[0] * 62 / 61)  # one layer more


def test_without_a_model_the_bytes_are_those_that_are_said() -> None:
    flags = {**LINEAR, **POOLS, "disaggregation.bytes_per_token": 131_072}
    plain = play(flags)
    drafted = play(flags, "speculative={tokens: 3, acceptance: 1.0}")
    assert figures(drafted)["acceptance_length"] == pytest.approx(
        4.0 - 3 / 16
    )  # the first step of each request has placeholders
    assert drafted["latency"]["tpot_s"]["p50"] < 0.5 * plain["latency"]["tpot_s"]["p50"]


CHAT = {
    "model": "llama-3.1-8b", "gpu": "h100-sxm", "cache.blocks": 1200, "engine.max_model_len": 16_384,
    "workload.synthesize": "chat", "workload.requests": 60, "workload.rate": 20.0, "workload.prompt_tokens": None,
    "workload.output_tokens": None,
}  # fmt: skip
HOST = {"tiers.host.memory": "64GB", "tiers.host.connector": "offloading"}


def test_host_memory_keeps_the_drafters_cache_too() -> None:
    plain, drafted = play({**CHAT, **HOST}), play({**CHAT, **HOST}, DRAFT)
    assert figures(drafted)["accepted"] > 0
    assert figures(drafted, "tiers")["host_hit_tokens"] > 0
    told = [
        next(item["value"] for item in document["assumptions"] if item["name"] == "tiers.block_bytes")
        for document in (plain, drafted)
    ]
    assert told[1] > told[0]
    assert drafted["latency"]["tpot_s"]["p50"] < plain["latency"]["tpot_s"]["p50"]


def test_a_models_own_layers_say_which_group_drafts() -> None:
    flags = {**FIXED, **HOST, "model": "qwen3-next-80b-a3b", "gpu": "h100-sxm", "parallel.tp": 4}
    config = Run(load_scenario(None, flags, [MTP])).deployment.config
    assert isinstance(config, EngineConfig)
    assert {group.kind for group in config.groups} == {"full", "mamba"}
    assert [group.kind for group in config.groups if group.drafts] == ["full"]
    document = play({**flags, "workload.prompt_tokens": 4000}, MTP)
    assert figures(document)["accepted"] > 0
    assert figures(document, "tiers")["host_stored_blocks"] > 0


STEP = {
    "model": "step-3.7-flash", "gpu": "h200-sxm", "parallel.tp": 8, "cache.groups": [{"kind": "full"}],
}  # fmt: skip
MODULES = "speculative={method: mtp, tokens: 3, acceptance: 0.8}"


def test_prediction_layers_draft_in_turns_behind_prefill_instances_and_above_host_memory() -> None:
    for beside, section in ((POOLS, "disaggregation"), (HOST, "tiers")):
        document = play({**STEP, **beside, "workload.requests": 12}, MODULES)
        assert figures(document)["acceptance_length"] > 2.0
        assert figures(document, section)
    asked = {**STEP, "workload.requests": 12, "workload.prompt_tokens": 513, "cache.block_size": 64}
    # One token of the last block is sent by who has one prediction layer, none of it by who has three.
    sent = [
        figures(play({**asked, **POOLS}, part), "disaggregation")["moved_bytes"] for part in (MTP, MODULES)
    ]
    assert sent[1] / sent[0] == pytest.approx(8 / 9)


def test_ranks_that_share_a_context_draft_with_one_prediction_layer() -> None:
    plain = {"model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8, "parallel.cp": 2}
    document = play({**plain, "workload.requests": 12}, MTP)
    assert figures(document)["acceptance_length"] == pytest.approx(1.85, abs=0.1)
    assert document["latency"]["tpot_s"]["p50"] < play(plain)["latency"]["tpot_s"]["p50"]


@pytest.mark.parametrize(
    ("flags", "part", "words"),
    [
        ({**LINEAR, "tiers.host.memory": "1GB", "tiers.block_bytes": 65536, "tiers.host.link": "pcie5-x16",
          "engine.max_model_len": 2048}, MTP, "tiers and speculative are not simulated together"),
        ({**LINEAR, "sampling.n": 2}, MTP, "not simulated together"),
        ({**LINEAR, **POOLS, "disaggregation.bytes_per_token": 9, "sampling.n": 2}, MTP, "simulated together"),
        ({**LINEAR, **HOST, "tiers.block_bytes": 65536, "tiers.host.link": "pcie5-x16",
          "cache.groups": [{"kind": "sliding", "window": 64}]}, MTP, "need a cache group of full attention"),
        ({**STEP, **POOLS, "disaggregation.first_token": "prefill"}, MODULES, "no first token to give"),
        ({**LINEAR, "parallel.cp": 2}, "speculative={method: ngram, tokens: 2, acceptance: 0.5}", "share a context"),
        ({**STEP, "parallel.cp": 2}, MODULES, "share a context"),
    ],
)  # fmt: skip
def test_what_is_refused(flags: dict[str, Any], part: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        play(flags, part)
