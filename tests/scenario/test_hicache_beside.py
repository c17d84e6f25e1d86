"""``tiers.host`` below SGLang beside drafts, recurrent states and windows: what they take of the host, what is
refused."""

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
        ({**STEP, "model": "gpt-oss-120b", "gpu": "h200-sxm", "parallel.tp": 2},
         "speculative={method: draft_model, model: gpt-oss-20b, acceptance: 0.7}", "windows of its own"),
        ({**STEP, "model": "step-3.7-flash", "gpu": "h200-sxm", "parallel.tp": 4}, "seed=1",
         "no pool of their own beside"),
    ],
)  # fmt: skip
def test_what_is_refused(flags: dict[str, Any], part: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        document(flags, part)


QWEN = {**STEP, "model": "qwen3-next-80b-a3b", "gpu": "h200-sxm", "parallel.tp": 4}


def test_states_have_a_share_of_the_host() -> None:
    found = document(QWEN)
    tiers, said = told(found), assumed(found)
    assert said["tiers.host.tokens"] == tiers["host_capacity_blocks"]
    assert said["tiers.host.states"] == tiers["host_capacity_states"]
    # 36 layers with 32 states of 128 x 128 in 4 bytes, and 3 columns of 8,192 in 2 bytes, on all GPUs together.
    assert tiers["host_state_bytes"] == 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)
    kept = (tiers["host_capacity_blocks"] - 1) * tiers["host_block_bytes"]
    kept += (tiers["host_capacity_states"] - 1) * tiers["host_state_bytes"]
    assert 64 * 10**9 - tiers["host_state_bytes"] < kept + tiers["host_block_bytes"] <= 64 * 10**9 + 2**20
    assert tiers["host_stored_states"] > 0
    moved = tiers["host_stored_blocks"] * tiers["host_block_bytes"]
    moved += tiers["host_stored_states"] * tiers["host_state_bytes"]
    assert tiers["to_host_bytes"] == moved
    assert told(document(QWEN, MTP))["host_block_bytes"] > tiers["host_block_bytes"]


def test_a_ratio_shares_the_host_by_tokens_and_states() -> None:
    for size in ("33GiB", "77777777777B"):
        scenario = load_scenario(None, {**QWEN, "tiers.host.memory": size}, [])
        deployment = resolve_deployment(scenario)
        flags = launch_flags(scenario, deployment)
        assert flags is not None
        ratio = float(flags.split("--hicache-ratio ")[1].split()[0])
        found = told(document({**QWEN, "tiers.host.memory": size}))
        fit = deployment.fit
        assert fit is not None
        slots = fit.binding.capacity.states
        assert slots is not None
        assert found["host_capacity_states"] == int(slots * ratio) + 1
        assert found["host_capacity_blocks"] == int(fit.binding.capacity.kv_tokens * ratio) + 1


def test_states_come_back_from_the_host() -> None:
    # Few tokens on the GPU have a small share of the host, too.
    asked = {**QWEN, "tiers.host.memory": "1TB", "engine.max_total_tokens": 24_000, "workload.rate": 20.0}
    found = told(document({**asked, "workload.requests": 80}))
    assert found["loads"] > 0
    assert found["loaded_states"] == 2 * found["loads"]
    assert found["host_hit_tokens"] > 0


GPT_OSS = {**STEP, "model": "gpt-oss-20b", "gpu": "h100-sxm"}
# 8 KV heads of 64 in 12 layers that look back, and in 12 that see everything.
OF_A_TOKEN = 8 * 64 * 2 * 2 * 12


def test_windows_have_a_share_of_the_host() -> None:
    found = document(GPT_OSS)
    tiers, said = told(found), assumed(found)
    assert tiers["host_block_bytes"] == tiers["host_window_block_bytes"] == OF_A_TOKEN
    assert said["tiers.host.tokens"] == tiers["host_capacity_blocks"]
    assert said["tiers.host.windows"] == tiers["host_capacity_window_blocks"]
    # The GPU's pool for windows has four tokens for five of the other, and both host pools one for padding.
    kept = 64 * 10**9 // OF_A_TOKEN
    assert tiers["host_capacity_blocks"] - 1 == pytest.approx(kept * 5 / 9, rel=1e-5)
    assert kept - 1 <= tiers["host_capacity_blocks"] + tiers["host_capacity_window_blocks"] - 2 <= kept
    assert 0 < tiers["host_stored_window_blocks"] < tiers["host_stored_blocks"]
    moved = tiers["host_stored_blocks"] + tiers["host_stored_window_blocks"]
    assert tiers["to_host_bytes"] == moved * OF_A_TOKEN


def test_a_ratio_shares_the_host_by_tokens_and_windows() -> None:
    scenario = load_scenario(None, {**GPT_OSS, "tiers.host.memory": "33GiB"}, [])
    deployment = resolve_deployment(scenario)
    flags = launch_flags(scenario, deployment)
    assert flags is not None
    ratio = float(flags.split("--hicache-ratio ")[1].split()[0])
    found = document({**GPT_OSS, "tiers.host.memory": "33GiB"})
    tokens = told(found, "sliding windows")
    assert told(found)["host_capacity_blocks"] == int(tokens["full_pool_tokens"] * ratio) + 1
    assert told(found)["host_capacity_window_blocks"] == int(tokens["window_pool_tokens"] * ratio) + 1


def test_windows_come_back_from_the_host() -> None:
    asked = {**GPT_OSS, "tiers.host.memory": "1TB", "engine.max_total_tokens": 20_000, "workload.rate": 20.0}
    asked["workload.requests"] = 100
    found = told(document(asked))
    assert found["loads"] > 0
    # A load brings back the window before the end of what is found, and hardly more.
    assert 0 < found["loaded_window_blocks"] < found["host_hit_tokens"]
    drafted = told(document(asked, DRAFT))
    assert drafted["loads"] > 0
    # 8 heads of 64 in 16 layers of the drafter lie beside.
    assert drafted["host_block_bytes"] == OF_A_TOKEN + 8 * 64 * 2 * 2 * 16
    assert drafted["host_window_block_bytes"] == OF_A_TOKEN
