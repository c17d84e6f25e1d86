"""``tiers.host`` below SGLang's ranks of data-parallel attention: each has host memory of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvplan.errors import UsageError
from kvplan.reporting.result import Result
from kvplan.scenario.audit import audit_result
from kvplan.scenario.conservation import check_laws
from kvplan.scenario.load import load_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.run import Run
from kvplan.scenario.tiers import launch_flags

RANKS: dict[str, Any] = {
    "engine.kind": "sglang", "engine.context_length": 8192, "workload.synthesize": "chat",
    "workload.requests": 30, "workload.rate": 5.0, "accuracy.ensemble": 0, "tiers.host.memory": "64GB",
    "gpu": "h200-sxm", "parallel.tp": 4, "parallel.dp_attention": True,
}  # fmt: skip
DEEPSEEK = {**RANKS, "model": "deepseek-v3", "parallel.tp": 8}
QWEN = {**RANKS, "model": "qwen3-next-80b-a3b"}
GPT_OSS = {**RANKS, "model": "gpt-oss-120b"}
MTP = "speculative={method: mtp, tokens: 1, acceptance: 0.7}"


def run(flags: dict[str, Any], *assignments: str) -> Run:
    found = Run(load_scenario(None, flags, list(assignments)))
    found.execute()
    return found


def document(flags: dict[str, Any], *assignments: str) -> dict[str, Any]:
    return run(flags, *assignments).result(["kvplan", "simulate"])


def told(result: dict[str, Any], section: str) -> dict[str, Any]:
    return {metric["name"]: metric["value"] for metric in result["strategies"][section]}


def test_the_memory_is_that_of_each_rank() -> None:
    """A rank has whole layers on one GPU: its page is that of one, and so are its link and its flag."""
    ranks, together = document(DEEPSEEK), document({**DEEPSEEK, "parallel.dp_attention": False})
    page = 61 * (512 + 64) * 2
    assert told(together, "tiers")["host_block_bytes"] == 8 * page
    for rank in range(8):
        tiers = told(ranks, f"tiers {rank}")
        assert tiers["host_block_bytes"] == page
        assert tiers["host_capacity_blocks"] == 64 * 10**9 // page + 1
    assumed = {item["name"]: item for item in ranks["assumptions"]}
    assert assumed["tiers.host.memory"]["value"] == 64 * 10**9
    assert assumed["tiers.host.memory"]["source"].startswith("of each rank")
    assert assumed["tiers.block_bytes"]["value"] == page
    assert "55 GB/s" in assumed["transfer.host to device"]["value"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (DEEPSEEK, "--hicache-size 64 "),
        ({**DEEPSEEK, "parallel.dp_attention": False}, "--hicache-size 8 "),
        (QWEN, "--hicache-size 64 "),
        ({**DEEPSEEK, "tiers.host.memory": "33GiB"}, "--hicache-ratio "),
    ],
)
def test_flags_are_those_of_each_rank(flags: dict[str, Any], says: str) -> None:
    scenario = load_scenario(None, flags, [])
    assert says in (launch_flags(scenario, resolve_deployment(scenario)) or "")


@pytest.mark.parametrize(
    ("flags", "drafts", "beside"),
    [
        (DEEPSEEK, False, None), (DEEPSEEK, True, None), (QWEN, False, "states"), (QWEN, True, "states"),
        (GPT_OSS, False, "window_blocks"),
    ],
)  # fmt: skip
def test_what_ranks_keep_goes_to_their_hosts(flags: dict[str, Any], drafts: bool, beside: str | None) -> None:
    result = document(flags, *([MTP] if drafts else []))
    Result.model_validate(result)
    assert all(check.passed for check in check_laws(result))
    assert result["totals"]["finished"] == 30
    moved = 0
    for rank in range(flags["parallel.tp"]):
        tiers = told(result, f"tiers {rank}")
        assert tiers["host_stored_blocks"] > 0
        if beside is not None:
            assert tiers[f"host_stored_{beside}"] > 0
        moved += tiers["to_host_bytes"] + tiers["from_host_bytes"]
    assert ("speculative decoding" in result["strategies"]) is drafts
    assert moved > 0
    assert {item["name"] for item in result["assumptions"]} >= {"parallel.dp_attention", "tiers.copies"}


def test_prefixes_come_back_to_the_rank_that_had_them() -> None:
    few = {**DEEPSEEK, "engine.max_total_tokens": 12_000, "workload.requests": 120, "workload.rate": 20.0}
    ranks = document({**few, "routing.ranks": "prefix-aware"})
    assert sum(told(ranks, f"tiers {rank}")["host_hit_tokens"] for rank in range(8)) > 0
    plain = document({key: value for key, value in few.items() if key != "tiers.host.memory"})
    assert "tiers 0" not in plain["strategies"]


def test_one_rank_is_the_engine_itself() -> None:
    one = {**RANKS, "model": "llama-3.1-8b", "gpu": "h100-sxm", "parallel.tp": 1, "workload.requests": 60,
           "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8}  # fmt: skip
    found = [document({**one, "parallel.dp_attention": split}) for split in (True, False)]
    for part in ("totals", "latency", "strategies"):
        assert found[0][part] == found[1][part]


def test_slow_links_make_everybodys_steps_longer() -> None:
    few = {**DEEPSEEK, "engine.max_total_tokens": 12_000, "workload.requests": 120, "workload.rate": 20.0}
    slow, fast = (document(few, f"tiers.host.bandwidth={rate}") for rate in ("0.2GB/s", "55GB/s"))
    took = [sum(told(result, f"tiers {rank}")["load_s"] for rank in range(8)) for result in (slow, fast)]
    assert took[0] > took[1]
    assert told(slow, "dp_attention")["waited"] > told(fast, "dp_attention")["waited"]


def test_members_of_an_ensemble_have_links_of_their_own() -> None:
    system = run(DEEPSEEK, MTP).system
    other = system.perturbed([2.0, 2.0])
    assert other.strategy != system.strategy


def test_an_audit_plays_it_again() -> None:
    result = json.loads(json.dumps(document({**QWEN, "workload.requests": 40})))
    assert audit_result(result, 20).passed


def test_another_models_drafts_are_refused_as_without_a_host() -> None:
    with pytest.raises(UsageError, match="for which another model drafts"):
        run(
            {**RANKS, "model": "llama-3.1-8b", "gpu": "h100-sxm"},
            "speculative={method: draft_model, model: llama-3.2-1b, tokens: 2, acceptance: 0.7}",
        )
