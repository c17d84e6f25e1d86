"""Scenarios with SGLang's prefill and decode servers: what they resolve to, what a result says, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvplan.engine.disaggregation.pool import Ranks
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.payload import StatePayload
from kvplan.engine.disaggregation.sglang.strategy import SglangDisaggregation
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.errors import KvplanError
from kvplan.latency.linear import LinearLatency
from kvplan.reporting.result import Result
from kvplan.scenario.audit import audit_result
from kvplan.scenario.conservation import check_laws
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run
from kvplan.sizing.size import size_model
from kvplan.specs.catalog import load_model

CHAT = {"workload.synthesize": "chat", "workload.requests": 100, "workload.rate": 15.0}
BARE = {
    "engine.kind": "sglang", "cache.prefix": "radix", "latency.model": "linear", "latency.a": 0.005,
    "latency.b": 2e-5, "latency.c": 1e-8, "engine.max_total_tokens": 60_000, "engine.context_length": 16_384,
    **CHAT, "disaggregation.bytes_per_token": 131_072,
}  # fmt: skip
LLAMA = {
    "engine.kind": "sglang", "cache.prefix": "radix", "model": "llama-3.1-8b", "gpu": "h100-sxm", **CHAT,
    "accuracy.ensemble": 0, "disaggregation.lanes": 1,
}  # fmt: skip


def run_of(flags: dict[str, Any]) -> Run:
    return Run(load_scenario(None, flags))


def strategy_of(flags: dict[str, Any]) -> SglangDisaggregation:
    strategy = run_of(flags).system.strategy
    assert isinstance(strategy, SglangDisaggregation)
    return strategy


def play(flags: dict[str, Any], **sinks: Any) -> dict[str, Any]:
    run = run_of(flags)
    run.execute(**sinks)
    return run.result(["kvplan", "simulate"])


def figures(document: dict[str, Any]) -> dict[str, Any]:
    return {metric["name"]: metric["value"] for metric in document["strategies"]["disaggregation"]}


def test_a_result_keeps_its_contract_and_its_laws() -> None:
    rows: list[RequestRow] = []
    document = play({**BARE, "disaggregation.decode.instances": 2}, on_request=rows.append)
    Result.model_validate(document)
    assert all(check.passed for check in check_laws(document))
    assert document["totals"]["finished"] == 100 == len(rows)
    found = figures(document)
    names = ("reserve", "queue", "prefill", "transfer", "first_decode")
    assert sum(found[f"ttft_{name}_mean"] for name in names) == pytest.approx(
        document["latency"]["ttft_s"]["mean"]
    )
    assert found["moved_bytes"] == sum(row.prompt_tokens for row in rows) * 131_072
    assert found["kept_bytes"] == 0


def test_a_result_can_be_audited() -> None:
    assert audit_result(play(BARE), 40).passed


def test_both_pools_have_options_of_their_own() -> None:
    strategy = strategy_of(
        {**BARE, "disaggregation.decode.max_running_requests": 8, "disaggregation.prefill.instances": 3,
         "disaggregation.prefill.chunked_prefill_size": 2048}
    )  # fmt: skip
    assert strategy.options == DecodeOptions(512, 16)
    assert strategy.prefill.instances == 3
    assert strategy.prefill.config is not None
    assert strategy.decode.config is not None
    assert strategy.prefill.config.chunked_prefill_size == 2048  # type: ignore[union-attr]
    assert strategy.decode.config.max_running_requests == 8  # type: ignore[union-attr]
    given = strategy_of(
        {**BARE, "disaggregation.decode.num_reserved_decode_tokens": 64,
         "disaggregation.decode.extra_slots": 3}
    )  # fmt: skip
    assert given.options == DecodeOptions(64, 3)


def test_what_is_assumed_is_said() -> None:
    document = play(BARE)
    assumed = {item["name"]: item["value"] for item in document["assumptions"]}
    assert assumed["disaggregation.decode.num_reserved_decode_tokens"] == 512
    assert assumed["disaggregation.decode.extra_slots"] == 0
    assert assumed["disaggregation.handshake"] == 0
    assert not any("SGLang" in text for text in document["warnings"])
    older = run_of({**BARE, "engine.version": "0.5.20"})
    assert older.system.warnings == ("prefill and decode servers are those of SGLang 0.5.23, not of 0.5.20",)


def test_both_pools_are_sized_as_a_server_that_does_both() -> None:
    run = run_of(LLAMA)
    share = {item.name: item.value for item in run.system.assumptions}["disaggregation.mem_fraction_static"]
    assert run.deployment.fit is not None
    assert share == run.deployment.fit.serving.utilization
    given = run_of({**LLAMA, "engine.mem_fraction_static": 0.8}).system.assumptions
    assert "disaggregation.mem_fraction_static" not in {item.name for item in given}


def test_a_model_says_the_bytes_of_a_page() -> None:
    strategy = strategy_of({**LLAMA, "engine.page_size": 64})
    assert strategy.block_bytes == 64 * 131_072
    assert [stage.name for stage in strategy.route] == ["ib-ndr"]


def test_windows_that_lie_in_the_full_pool_are_sent_whole() -> None:
    # 62 layers, 16 heads of 128, keys and values in bf16
    assert strategy_of({**LLAMA, "model": "gemma-3-27b"}).block_bytes == 62 * 2 * 16 * 128 * 2


def test_windows_apart_are_sent_as_far_as_the_last_token_looks() -> None:
    strategy = strategy_of({**LLAMA, "model": "gpt-oss-20b", "engine.page_size": 64})
    # 12 of 24 layers each, 8 heads of 64, keys and values in bf16
    layers = 12 * 2 * 8 * 64 * 2
    assert strategy.block_bytes == 64 * layers
    assert strategy.payload == StatePayload(window_block_bytes=64 * layers, span=127)
    # Tokens 873 to 999 lie in pages 13 to 15.
    assert strategy.payload.bytes(1000, 64) == 3 * 64 * layers


def test_states_are_sent_once() -> None:
    strategy = strategy_of({**LLAMA, "model": "nemotron-h-8b"})
    size = size_model(load_model("nemotron-h-8b"), context_tokens=1).state_bytes_per_sequence
    assert strategy.payload == StatePayload(state_bytes=size)
    assert strategy.payload.bytes(1, 1) == strategy.payload.bytes(100_000, 1) == size


def test_a_decode_server_gives_windows_what_so_many_requests_need() -> None:
    flags = {**LLAMA, "model": "gpt-oss-20b", "engine.page_size": 64}
    shared = strategy_of(flags)
    assert shared.prefill.beside == shared.decode.beside
    limited = strategy_of({**flags, "disaggregation.decode.max_running_requests": 16})
    assert limited.prefill.beside == shared.prefill.beside
    assert isinstance(limited.decode.beside, WindowPools)
    # 127 tokens, 128 more before any are given back, two pages; windows and a page for each of 32 slots.
    assert (
        limited.decode.beside.windows.pool_tokens
        == -(-((127 + 128 + 2 * 64) * 16 + (127 + 64) * 32) // 64) * 64
    )
    assert isinstance(limited.decode.config, SglangConfig)
    assert isinstance(shared.decode.config, SglangConfig)
    assert limited.decode.config.max_running_requests == 16
    assert limited.decode.config.pool_tokens > 1.7 * shared.decode.config.pool_tokens


def test_a_decode_server_has_a_state_for_each_request() -> None:
    flags = {**LLAMA, "model": "nemotron-h-8b"}
    shared, limited = (strategy_of({**flags, **more}) for more in ({}, {"engine.max_running_requests": 16}))
    for strategy in (shared, limited):
        assert isinstance(strategy.decode.beside, RecurrentStates)
        assert isinstance(strategy.decode.config, SglangConfig)
        assert strategy.decode.config.max_running_requests == strategy.decode.beside.rules.slots
    assert isinstance(shared.prefill.beside, RecurrentStates)
    assert shared.decode.beside == shared.prefill.beside
    assert limited.decode.beside.rules.slots == 16  # type: ignore[union-attr]
    assert limited.decode.config.pool_tokens > shared.decode.config.pool_tokens  # type: ignore[union-attr]
    prefill = run_of(flags).deployment.config
    assert isinstance(prefill, SglangConfig)
    assert prefill.max_running_requests == shared.prefill.beside.rules.slots // 5


def test_hybrid_models_run_and_say_what_is_beside_their_tokens() -> None:
    for model, section, name in (
        ("gpt-oss-20b", "sliding windows", "window_page_bytes"),
        ("nemotron-h-8b", "recurrent states", "state_bytes"),
    ):
        document = play({**LLAMA, "model": model})
        Result.model_validate(document)
        assert all(check.passed for check in check_laws(document))
        assert {f"{section} prefill", f"{section} decode"} <= {*document["strategies"]}
        found, payload = figures(document), strategy_of({**LLAMA, "model": model}).payload
        assert 0 < found["payload_bytes"] < found["moved_bytes"]
        if payload.state_bytes:
            assert found["payload_bytes"] == document["totals"]["finished"] * payload.state_bytes
        assert f"disaggregation.{name}" in {item["name"] for item in document["assumptions"]}


def test_a_decode_server_may_keep_prefixes() -> None:
    plain, keeping = ({**BARE, **more} for more in ({}, {"disaggregation.decode.enable_radix_cache": True}))
    assert not strategy_of(plain).options.enable_radix_cache
    without, with_cache = figures(play(plain)), figures(play(keeping))
    assert "decode_hit_tokens" not in without
    assert with_cache["decode_hit_tokens"] > 0
    assert with_cache["moved_bytes"] == without["moved_bytes"] - with_cache["decode_hit_tokens"] * 131_072


def test_drafts_are_verified_by_decode_servers_and_their_cache_is_sent() -> None:
    deepseek = {
        **LLAMA, "model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8, "workload.requests": 30,
    }  # fmt: skip
    drafts = {"speculative.method": "mtp", "speculative.tokens": 1, "speculative.acceptance": 0.8}
    plain, drafted = play(deepseek), play({**deepseek, **drafts})
    Result.model_validate(drafted)
    assert all(check.passed for check in check_laws(drafted))
    assert drafted["latency"]["tpot_s"]["mean"] < plain["latency"]["tpot_s"]["mean"]
    # 61 layers of 576 elements in bf16 and one that drafts.
    assert figures(drafted)["moved_bytes"] / figures(plain)["moved_bytes"] == pytest.approx(62 / 61, rel=0.01)
    found = {metric["name"]: metric["value"] for metric in drafted["strategies"]["speculative decoding"]}
    assert 0.7 < found["acceptance_rate"] < 0.9


def test_ranks_of_data_parallel_attention() -> None:
    """DeepSeek's usual deployment, with drafts: 8 ranks compute prompts, 16 decode."""
    flags = {
        **LLAMA, "model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8, "parallel.dp_attention": True,
        "workload.requests": 40, "disaggregation.lanes": 8, "disaggregation.decode.tp": 16,
        "disaggregation.decode.max_running_requests": 256, "speculative.method": "mtp",
        "speculative.tokens": 1, "speculative.acceptance": 0.8,
    }  # fmt: skip
    strategy = strategy_of(flags)
    assert (strategy.prefill.ranks, strategy.decode.ranks) == (Ranks(8, 8), Ranks(16, 8))
    # 256 are shared by 16 ranks, each of which has twice its own 16 in extra slots.
    assert strategy.decode.config.max_running_requests == 16  # type: ignore[union-attr]
    assert strategy.options == DecodeOptions(512, 32)
    document = play(flags)
    Result.model_validate(document)
    assert all(check.passed for check in check_laws(document))
    assert {"dp_attention prefill", "dp_attention decode"} < document["strategies"].keys()
    assumed = {item["name"]: item["value"] for item in document["assumptions"]}
    assert assumed["parallel.dp_attention"] == "8/16"
    assert assumed["routing.ranks"] == "bootstrap-room/round-robin"
    assert assumed["disaggregation.adapters"] == "8/8"


def test_a_rank_sends_through_its_share_of_the_lanes() -> None:
    flags = {
        **LLAMA, "model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8, "disaggregation.lanes": 8,
    }  # fmt: skip
    carriers = [
        strategy_of({**flags, "parallel.dp_attention": ranks}).route[0].carrier for ranks in (True, False)
    ]
    alone, together = (carrier.seconds(1 << 30) for carrier in carriers)
    assert alone == pytest.approx(8 * together, rel=0.01)


def test_room_that_is_kept_free_holds_requests_back() -> None:
    small = {**BARE, "engine.max_total_tokens": 20_000, "workload.rate": 60.0}
    free = figures(play({**small, "disaggregation.decode.num_reserved_decode_tokens": 0}))
    kept = figures(play({**small, "disaggregation.decode.num_reserved_decode_tokens": 2048}))
    assert kept["back_pressured"] > free["back_pressured"]
    assert kept["ttft_reserve_mean"] > free["ttft_reserve_mean"]


@pytest.mark.parametrize(
    ("flags", "where", "text"),
    [
        ({"disaggregation.streaming": "layerwise"}, "disaggregation.streaming", "chunk of the prompt"),
        ({"disaggregation.dtype": "fp8"}, "disaggregation.dtype", "as it is stored"),
        ({"disaggregation.first_token": "prefill"}, "disaggregation.first_token", "hands out"),
        (
            {"disaggregation.prefill.kv_role": "kv_producer"},
            "disaggregation.prefill.kv_role",
            "vLLM's connector",
        ),
        ({"disaggregation.decode.pp": 2}, "parallel.pp", "pipeline stages"),
        (
            {"disaggregation.decode.max_num_seqs": 8},
            "disaggregation.decode.max_num_seqs",
            "here it is called max_running_requests",
        ),
        ({"parallel.replicas": 2}, "parallel.replicas", "instances"),
        (
            {
                "model": "deepseek-v3",
                "gpu": "b200",
                "parallel.tp": 8,
                "speculative.tokens": 3,
                "speculative.method": "draft_model",
                "speculative.model": "llama-3.1-8b",
                "speculative.acceptance": 0.5,
            },
            "speculative.method",
            "nothing to begin with",
        ),
        (
            {"parallel.dp_attention": True, "parallel.tp": 2, "disaggregation.through": "host"},
            "disaggregation.through",
            "data-parallel",
        ),
        (
            {
                "model": "qwen3-next-80b-a3b",
                "gpu": "h200-sxm",
                "parallel.tp": 4,
                "speculative.tokens": 1,
                "speculative.method": "mtp",
                "speculative.acceptance": 0.5,
            },
            "speculative",
            "pools for recurrent states or for windows",
        ),
        (
            {"model": "gpt-oss-20b", "disaggregation.decode.max_running_requests": 1_000_000},
            "disaggregation.decode.max_running_requests",
            "leaves no memory",
        ),
        (
            {"model": "gpt-oss-20b", "disaggregation.decode.enable_radix_cache": True},
            "disaggregation.decode.enable_radix_cache",
            "not simulated",
        ),
        ({"model": "mamba-2.8b"}, "", "state"),
        ({"workload.timeout_s": 5}, "workload.timeout_s", "wait for ever"),
    ],
)
def test_what_is_refused(flags: dict[str, Any], where: str, text: str) -> None:
    with pytest.raises(KvplanError) as caught:
        run_of({**LLAMA, **flags}).execute()
    assert text in str(caught.value)
    assert where in str(caught.value)


def test_pages_of_both_pools_are_the_same() -> None:
    strategy = strategy_of(BARE)
    run = run_of({**BARE, "engine.page_size": 16})
    other = run.deployment.config
    unlike = replace(strategy, decode=replace(strategy.decode, config=other))
    with pytest.raises(KvplanError, match="blocks of 1 and 16 tokens"):
        unlike.sglang_engine(
            run_of(BARE).deployment.config,
            LinearLatency(5e-3, 2e-5, 1e-8),
            Recorder(),  # type: ignore[arg-type]
        )
