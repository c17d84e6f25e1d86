"""``tiers.host`` below SGLang beside ``speculative``: what a drafter takes of the host, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import UsageError
from kvplan.scenario.load import load_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.run import Run
from kvplan.scenario.tiers import launch_flags

STEP: dict[str, Any] = {
    "engine.kind": "sglang", "engine.context_length": 8192, "workload.synthesize": "chat",
    "workload.requests": 30, "workload.rate": 5.0, "accuracy.ensemble": 0, "tiers.host.memory": "64GB",
}  # fmt: skip
DEEPSEEK = {**STEP, "model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8}
LLAMA = {**STEP, "model": "llama-3.1-8b", "gpu": "h100-sxm"}
MTP = "speculative={method: mtp, tokens: 1, acceptance: 0.7}"
DRAFT = "speculative={method: draft_model, model: llama-3.2-1b, tokens: 2, acceptance: 0.7}"


def document(flags: dict[str, Any], *assignments: str) -> dict[str, Any]:
    found = Run(load_scenario(None, flags, list(assignments)))
    found.execute()
    return found.result(["kvplan"])


def told(result: dict[str, Any], section: str = "tiers") -> dict[str, Any]:
    return {metric["name"]: metric["value"] for metric in result["strategies"][section]}


def assumed(result: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item["value"] for item in result["assumptions"]}


def test_prediction_layers_are_packed_behind_the_models() -> None:
    plain, drafted = document(DEEPSEEK), document(DEEPSEEK, MTP)
    # A latent cache of 576 values of two bytes on each of 8 ranks, 61 layers, and one that predicts.
    assert told(plain)["host_block_bytes"] == 576 * 2 * 8 * 61
    assert told(drafted)["host_block_bytes"] == 576 * 2 * 8 * 62
    assert told(drafted)["host_capacity_blocks"] == 64 * 10**9 // (576 * 2 * 8 * 62) + 1
    assert "tiers.host.drafter_bytes" not in assumed(drafted)
    assert told(drafted, "speculative decoding")["acceptance_length"] > 1.5
    assert told(drafted)["to_host_bytes"]


def test_another_drafter_has_a_host_pool_beside() -> None:
    plain, drafted = document(LLAMA), document(LLAMA, DRAFT)
    # 8 KV heads of 128 in 32 layers; of 64 in 16 layers.
    target, drafter = 8 * 128 * 2 * 2 * 32, 8 * 64 * 2 * 2 * 16
    assert told(plain)["host_block_bytes"] == target
    assert told(drafted)["host_block_bytes"] == target + drafter
    pages = told(drafted)["host_capacity_blocks"]
    assert pages == told(plain)["host_capacity_blocks"] == 64 * 10**9 // target + 1
    assert assumed(drafted)["tiers.host.drafter_bytes"] == pages * drafter
    for flags in ({}, {"tiers.host.memory": "33GiB"}):
        said = []
        for assignments in ([], [DRAFT]):
            scenario = load_scenario(None, {**LLAMA, "engine.max_total_tokens": 64_000, **flags}, assignments)
            said.append(launch_flags(scenario, resolve_deployment(scenario)))
        assert said[0] == said[1]


@pytest.mark.parametrize(
    ("flags", "part", "words"),
    [
        ({**LLAMA, "model": "llama-3.2-1b"},
         "speculative={method: draft_model, model: llama-3.1-8b, acceptance: 0.7}", "more layers than"),
        ({**STEP, "model": "qwen3-next-80b-a3b", "gpu": "h200-sxm", "parallel.tp": 4}, MTP, "recurrent states"),
    ],
)  # fmt: skip
def test_what_is_refused(flags: dict[str, Any], part: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        document(flags, part)
