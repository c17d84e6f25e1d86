"""A run's result: laws first, then what single options must do."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kvplan.engine.recorder import RequestRow
from kvplan.errors import AnswerIsNo, KvplanError, UsageError
from kvplan.reporting.result import Result, result_json
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run
from kvplan.units import format_bytes

LINEAR = {"latency.model": "linear", "latency.a": 0.005, "latency.b": 2e-5, "latency.c": 1e-8}
POOL = {"cache.blocks": 3000, "engine.max_num_batched_tokens": 2048, "engine.max_model_len": 16384}
CHAT = {"workload.synthesize": "chat", "workload.requests": 300, "workload.rate": 20.0}


def play(flags: dict[str, Any], **sinks: Any) -> dict[str, Any]:
    run = Run(load_scenario(None, flags))
    run.execute(**sinks)
    return run.result(["kvplan", "simulate"])


@pytest.fixture(scope="module")
def chat() -> dict[str, Any]:
    return play({**LINEAR, **POOL, **CHAT})


def test_the_result_keeps_its_contract(chat: dict[str, Any]) -> None:
    result = Result.model_validate(chat)
    assert json.loads(result_json(result)) == json.loads(json.dumps(chat))
    assert chat["complete"] is True


def test_requests_are_conserved(chat: dict[str, Any]) -> None:
    totals = chat["totals"]
    assert totals["requests"] == 300
    assert totals["finished"] + totals["rejected"] + totals["unfinished"] == totals["requests"]
    assert totals["unfinished"] == 0


def test_the_same_seed_gives_the_same_bytes(chat: dict[str, Any]) -> None:
    again = play({**LINEAR, **POOL, **CHAT})
    assert result_json(Result.model_validate(again)) == result_json(Result.model_validate(chat))


def test_another_seed_gives_another_run(chat: dict[str, Any]) -> None:
    other = play({**LINEAR, **POOL, **CHAT, "seed": 1})
    assert other["totals"] != chat["totals"]


def test_rows_obey_causality_and_add_up(chat: dict[str, Any]) -> None:
    rows: list[RequestRow] = []
    result = play({**LINEAR, **POOL, **CHAT}, on_request=rows.append)
    for row in rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
        assert row.cached_tokens < row.prompt_tokens
    assert len(rows) == result["totals"]["finished"]
    assert sum(row.output_tokens for row in rows) == result["totals"]["output_tokens"]
    assert max(row.finish_s for row in rows) == result["totals"]["makespan_s"]
    assert max(Counter(row.id for row in rows).values()) == 1


def test_the_pool_is_never_overdrawn(chat: dict[str, Any]) -> None:
    usable = chat["pool"]["usable_blocks"]
    series = chat["series"]
    assert all(u + c <= usable for u, c in zip(series["used_blocks"], series["cached_blocks"], strict=True))
    assert max(series["used_blocks"]) <= chat["totals"]["peak_used_blocks"] <= usable


def test_both_engines_give_the_same_result(chat: dict[str, Any]) -> None:
    run = Run(load_scenario(None, {**LINEAR, **POOL, **CHAT}), engine="reference")
    run.execute()
    assert run.result(["kvplan", "simulate"]) == chat


def test_replicas_share_the_load(chat: dict[str, Any]) -> None:
    four = play({**LINEAR, **POOL, **CHAT, "parallel.replicas": 4, "routing.policy": "session-affinity"})
    Result.model_validate(four)
    assert four["totals"]["finished"] == chat["totals"]["finished"]
    assert four["pool"]["usable_blocks"] == 4 * chat["pool"]["usable_blocks"]
    assert four["latency"]["tpot_s"]["mean"] < chat["latency"]["tpot_s"]["mean"]


def test_sglang_engines_stand_behind_a_router_too() -> None:
    flags = {"engine.kind": "sglang", "cache.blocks": 30_000, "routing.policy": "prefix-aware"}
    document = play({**LINEAR, **flags, **CHAT, "parallel.replicas": 3})
    assert document["totals"]["finished"] == document["totals"]["requests"] > 0
    assert document["pool"]["usable_blocks"] == 3 * 30_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"routing.policy": "random"}, "routing policy"),
        (
            {"cache.groups": [{"kind": "full", "block_size": 16}, {"kind": "full", "block_size": 32}]},
            "blocks of two sizes",
        ),
    ],
)
def test_clusters_that_cannot_be_simulated(flags: dict[str, Any], message: str) -> None:
    base = {**LINEAR, "cache.blocks": 3000, **CHAT, "parallel.replicas": 2}
    with pytest.raises(KvplanError, match=message):
        play({**base, **flags})


def test_without_prefix_caching_nothing_is_hit(chat: dict[str, Any]) -> None:
    plain = play({**LINEAR, **POOL, **CHAT, "cache.prefix": "none"})
    assert chat["totals"]["hit_tokens"] > 0
    assert plain["totals"]["hit_tokens"] == 0
    assert plain["latency"]["ttft_s"]["mean"] > chat["latency"]["ttft_s"]["mean"]


def test_more_blocks_never_hit_less(chat: dict[str, Any]) -> None:
    small = play({**LINEAR, **POOL, **CHAT, "cache.blocks": 1200})
    assert small["totals"]["hit_tokens"] <= chat["totals"]["hit_tokens"]
    assert small["totals"]["evicted_blocks"] >= chat["totals"]["evicted_blocks"]


def test_what_can_never_be_served_is_rejected_and_counted() -> None:
    result = play({**LINEAR, **CHAT, "cache.blocks": 40, "engine.max_model_len": 4096})
    totals = result["totals"]
    assert totals["rejected"] > 0
    assert totals["finished"] + totals["rejected"] == totals["requests"]
    assert any("rejected" in text for text in result["warnings"])
    assert any("refuse to start" in text for text in result["warnings"])


@pytest.mark.parametrize("dtype", ["fp8", "fp8_e4m3"])
def test_a_format_has_one_curve_whatever_it_is_called(dtype: str) -> None:
    result = play({"model": "llama-3.1-8b", "gpu": "h100-sxm", "cache.dtype": dtype, **CHAT})
    curves = [curve["dtype"] for curve in result["capacity"]]
    assert curves == ["fp8_e4m3", "bf16", "int4_per_token_head"]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"cache.blocks": 2000}, 2000 * 16 * 131072),
        ({"engine.kind": "sglang", "engine.max_total_tokens": 100_000}, 100_000 * 131072),
        ({"engine.kind": "sglang", "cache.blocks": 100_000}, 100_000 * 131072),
        ({"engine.kind": "sglang", "engine.max_total_tokens": 10_000_000}, None),  # SGLang takes what fits
    ],
)
def test_the_bill_of_a_pool_that_was_given_is_what_that_pool_takes(
    options: dict[str, object], size: int | None
) -> None:
    plain = play(
        {
            "model": "llama-3.1-8b",
            "gpu": "h100-sxm",
            **CHAT,
            "engine.kind": options.get("engine.kind", "vllm"),
        }
    )
    memory = play({"model": "llama-3.1-8b", "gpu": "h100-sxm", **CHAT, **options})["memory"]
    bill, before = ({item["name"]: item for item in m["bill"]} for m in (memory, plain["memory"]))
    assert bill["kv_pool"]["bytes"] == (before["kv_pool"]["bytes"] if size is None else size)
    assert ("given" in bill["kv_pool"]["formula"]) == (size is not None)
    assert sum(item["bytes"] for item in memory["bill"]) == memory["total_bytes"]
    assert memory["num_blocks"] == plain["memory"]["num_blocks"]  # what the memory would hold


def test_slo_values_are_the_quantiles_reached() -> None:
    result = play({**LINEAR, **POOL, **CHAT, "slo.ttft_p99_s": 1e-6, "slo.tpot_p50_s": 10.0})
    by_name = {item["name"]: item for item in result["slo"]}
    assert by_name["ttft_p99_s"]["passed"] is False
    assert by_name["ttft_p99_s"]["value_s"] == result["latency"]["ttft_s"]["p99"]
    assert by_name["tpot_p50_s"]["passed"] is True


def test_a_limit_that_is_just_reached_is_met() -> None:
    flags = {**LINEAR, **POOL, **CHAT}
    reached = play(flags)["latency"]["ttft_s"]["p99"]
    for limit, passed in ((reached, True), (math.nextafter(reached, 0.0), False)):
        (slo,) = play({**flags, "slo.ttft_p99_s": limit})["slo"]
        assert (slo["value_s"], slo["passed"]) == (reached, passed)


def test_a_real_deployment_has_a_bill_a_curve_and_bands() -> None:
    result = play({"model": "llama-3.1-8b", "gpu": "h100-sxm", **CHAT})
    memory = result["memory"]
    assert sum(item["bytes"] for item in memory["bill"]) == memory["total_bytes"]
    assert result["pool"]["num_blocks"] == memory["num_blocks"]
    assert {curve["dtype"] for curve in result["capacity"]} >= {"bf16", "fp8"}
    assert result["accuracy"]["bands"]["ttft"] == [-0.3, 0.3]
    assert result["model"]["kv_bytes_per_token"] == 131072


def test_what_does_not_fit_is_an_answer() -> None:
    with pytest.raises(AnswerIsNo, match="does not fit"):
        Run(load_scenario(None, {"model": "llama-3.1-405b", "gpu": "h100-sxm", **CHAT}))


@pytest.mark.parametrize("engine", [{}, {"engine.kind": "sglang"}])
@pytest.mark.parametrize("size", [1 << 20, 1 << 40])
def test_a_block_larger_than_the_pool_is_named_as_the_reason(engine: dict[str, str], size: int) -> None:
    asked = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "cache.block_size": size, **engine, **CHAT}
    with pytest.raises(AnswerIsNo) as caught:
        Run(load_scenario(None, asked))
    said = caught.value.message
    assert f"blocks of {size:,} tokens" in said
    assert "short by" not in said
    assert f"a block takes {format_bytes(size * 131072)}" in said  # 128 KiB a token
    assert "lower the block size" in (caught.value.hint or "")


def test_a_pool_that_is_short_says_by_how_much() -> None:
    for engine in ({}, {"engine.kind": "sglang"}):
        with pytest.raises(AnswerIsNo, match=r"no memory is left for the KV pool \(short by [1-9]"):
            Run(load_scenario(None, {"model": "llama-3.1-70b", "gpu": "h100-sxm", **engine, **CHAT}))


def test_a_duplicate_id_is_dropped_and_counted(tmp_path: Path) -> None:
    line = json.dumps({"id": "a", "arrival": 0.0, "prompt_token_ids": [1, 2, 3], "output_length": 2})
    trace = tmp_path / "twice.jsonl"
    trace.write_text(line + "\n" + line + "\n")
    result = play({**LINEAR, **POOL, "workload.trace": str(trace)})
    assert result["totals"]["requests"] == 1
    assert result["trace"]["rows_read"] == 2
    assert sum(result["trace"]["dropped"].values()) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_a_clock_that_misbehaves_is_an_error(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def step_seconds(self, batch: object) -> float:
            return bad

    run = Run(load_scenario(None, {**LINEAR, **POOL, **CHAT}))
    object.__setattr__(run.clock, "model", Broken())
    with pytest.raises(KvplanError, match="latency model returned"):
        run.execute()
    assert run.result(["kvplan"])["complete"] is False


def test_an_interrupted_run_is_kept_and_marked() -> None:
    run = Run(load_scenario(None, {**LINEAR, **POOL, **CHAT}))
    seen = 0

    def interrupt(row: RequestRow) -> None:
        nonlocal seen
        seen += 1
        if seen == 50:
            raise KeyboardInterrupt

    run.execute(on_request=interrupt)
    result = run.result(["kvplan"])
    assert result["complete"] is False
    assert result["totals"]["finished"] == 50
    assert result["totals"]["unfinished"] > 0
    Result.model_validate(result)


ON_A_GPU = {
    "model": "llama-3.1-8b",
    "gpu": "h100-sxm",
    "workload.synthesize": "fixed",
    "workload.requests": 4,
    "accuracy.ensemble": 0,
}


def held_at_once(result: dict[str, Any]) -> float:
    return float(result["memory"]["max_concurrency"])


def test_what_is_held_at_once_is_held_by_all_replicas_in_the_pool_that_was_simulated() -> None:
    one = play(ON_A_GPU)
    longest = one["capacity"][0]["points"][-1]
    assert longest["context_tokens"] == one["memory"]["max_concurrency_context"]
    assert held_at_once(one) == pytest.approx(longest["max_concurrency"])
    two = play({**ON_A_GPU, "parallel.replicas": 2})
    assert held_at_once(two) == pytest.approx(two["capacity"][0]["points"][-1]["max_concurrency"])
    assert held_at_once(two) == pytest.approx(2 * held_at_once(one))
    half = play({**ON_A_GPU, "cache.blocks": one["memory"]["num_blocks"] // 2})
    assert held_at_once(half) == pytest.approx(held_at_once(one) / 2, rel=1e-3)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_pool_larger_than_the_gpu_is_said(kind: str) -> None:
    engine = {**ON_A_GPU, "engine.kind": kind}
    fitting = play(engine)["memory"]["kv_tokens"]
    said = [play({**engine, "cache.blocks": n})["warnings"] for n in (fitting // 16 // 2, 10 * fitting)]
    assert not any("out of memory" in warning for warning in said[0])
    assert any("cache.blocks" in warning and "out of memory" in warning for warning in said[1])


def test_a_given_pool_of_a_model_that_does_not_fit_is_said() -> None:
    result = play({**ON_A_GPU, "model": "llama-3.1-70b", "cache.blocks": 9000})
    assert any("has room for none" in warning for warning in result["warnings"])
    assert held_at_once(result) == 0.0


def test_a_host_tier_of_nothing_is_none() -> None:
    """So that a sweep over its memory can begin without one."""
    assert play({**ON_A_GPU, "tiers.host.memory": 0})["totals"] == play(ON_A_GPU)["totals"]
    with pytest.raises(UsageError, match="smaller than a request"):
        play({**ON_A_GPU, "tiers.host.memory": 0, "tiers.disk.memory": 1 << 40})
    with pytest.raises(UsageError, match="smaller than a request"):
        play({**ON_A_GPU, "tiers.host.memory": 0, "engine.preemption": "swap"})
