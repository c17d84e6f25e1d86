"""Scenarios with separate prefill and decode: what they resolve to, what a result says, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.strategy import Disaggregation
from kvplan.engine.recorder import RequestRow
from kvplan.errors import KvplanError, UnknownName, UsageError
from kvplan.reporting.result import Result
from kvplan.scenario.audit import audit_result
from kvplan.scenario.conservation import check_laws
from kvplan.scenario.load import load_scenario
from kvplan.scenario.pools import pools_of
from kvplan.scenario.run import Run

LINEAR = {"latency.model": "linear", "latency.a": 0.005, "latency.b": 2e-5, "latency.c": 1e-8}
POOL = {"cache.blocks": 3000, "engine.max_num_batched_tokens": 2048, "engine.max_model_len": 16384}
CHAT = {"workload.synthesize": "chat", "workload.requests": 120, "workload.rate": 15.0}
BARE = {**LINEAR, **POOL, **CHAT, "disaggregation.bytes_per_token": 131_072}
LLAMA = {
    "model": "llama-3.1-8b",
    "gpu": "h100-sxm",
    **CHAT,
    "accuracy.ensemble": 0,
    "disaggregation.lanes": 1,
}


def run_of(flags: dict[str, Any]) -> Run:
    return Run(load_scenario(None, flags))


def strategy_of(run: Run) -> Disaggregation:
    strategy = run.system.strategy
    assert isinstance(strategy, Disaggregation)
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
    assert document["pool"]["num_blocks"] == 3 * 3000
    assert document["totals"]["finished"] == 120 == len(rows)
    found = figures(document)
    parts = sum(found[f"ttft_{name}_mean"] for name in ("queue", "prefill", "transfer", "first_decode"))
    assert parts == pytest.approx(document["latency"]["ttft_s"]["mean"])
    assert found["moved_bytes"] + found["kept_bytes"] == sum(
        -(-row.prompt_tokens // 16) * 16 * 131_072 for row in rows
    )


def test_a_result_can_be_audited() -> None:
    assert audit_result(play(BARE), 40).passed


@pytest.mark.parametrize("engine", [{}, {"engine.kind": "sglang", "cache.prefix": "radix"}])
def test_ranks_of_pools_take_the_time_of_what_they_do_together(engine: dict[str, Any]) -> None:
    """Who listens to a clock does not hear what ranks ask of it together, which went missing from a step."""
    flags = {
        **LLAMA, **engine, "model": "deepseek-v2-lite", "parallel.tp": 2, "parallel.dp_attention": True,
        "workload.requests": 12, "accuracy.ensemble": 0,
    }  # fmt: skip
    document = play(flags)
    assert document["step_time"] is None
    assert audit_result(document, 12).passed


def test_without_the_section_nothing_changes() -> None:
    plain = {key: value for key, value in BARE.items() if not key.startswith("disaggregation")}
    assert play(plain)["strategies"] == {}
    assert run_of(plain).system.chosen is None


def test_a_model_says_bytes_and_layers() -> None:
    run = run_of({**LLAMA, "disaggregation.streaming": "layerwise"})
    strategy = strategy_of(run)
    assert strategy.block_bytes == 16 * 131_072
    assert strategy.layers == 32
    assert [stage.name for stage in strategy.route] == ["ib-ndr"]
    assert strategy.route[0].carrier.seconds(46 * 10**9) == pytest.approx(1.0, rel=1e-4)
    names = [item.name for item in run.system.assumptions]
    assert names[:3] == ["disaggregation.first_token", "disaggregation.bytes_per_token", "transfer.ib-ndr"]


def test_a_smaller_format_halves_what_travels() -> None:
    whole = play({**LLAMA, "workload.requests": 30})
    half = play({**LLAMA, "workload.requests": 30, "disaggregation.dtype": "fp8"})
    assert figures(half)["moved_bytes"] == pytest.approx(figures(whole)["moved_bytes"] / 2, rel=1e-3)
    route = strategy_of(run_of({**LLAMA, "disaggregation.dtype": "fp8"})).route
    assert [(stage.name, stage.prefill, stage.decode, stage.ratio) for stage in route] == [
        ("to fp8", True, False, 1.0), ("ib-ndr", True, True, 0.5), ("from fp8", False, True, 1.0),
    ]  # fmt: skip
    # Read 2 bytes and write 1 at 80 % of 3.35 TB/s, and launch a kernel.
    assert route[0].carrier.seconds(10**9) == pytest.approx(5e-6 + 1.5e9 / (0.8 * 3.35e12), rel=1e-3)


def test_through_the_host_the_way_is_longer() -> None:
    direct = figures(play({**LLAMA, "workload.requests": 30}))
    host = figures(play({**LLAMA, "workload.requests": 30, "disaggregation.through": "host"}))
    assert host["ttft_transfer_mean"] > direct["ttft_transfer_mean"]
    # What the decode instance has by then may differ; what it needs does not.
    assert len({found["moved_bytes"] + found["kept_bytes"] for found in (host, direct)}) == 1
    route = strategy_of(run_of({**LLAMA, "disaggregation.through": "host"})).route
    assert [stage.name for stage in route] == ["device to host", "ib-ndr", "host to device"]
    # 55 GB/s over PCIe on either side, as each GPU's spec has it.
    assert [stage.carrier.seconds(10**9) for stage in route] == pytest.approx(
        [1 / 55, 1 / 46, 1 / 55], rel=0.01
    )


def test_pools_of_their_own() -> None:
    run = run_of(
        {**LLAMA, "disaggregation.decode.gpu": "a100-80g", "disaggregation.decode.tp": 2,
         "disaggregation.prefill.max_num_seqs": 8, "disaggregation.prefill.instances": 3}
    )  # fmt: skip
    strategy = strategy_of(run)
    alone = run_of({**LLAMA, "gpu": "a100-80g", "parallel.tp": 2})
    assert strategy.decode.config == alone.deployment.config
    assert strategy.prefill.config is not None
    assert strategy.prefill.config.max_num_seqs == 8
    assert strategy.prefill.latency is None
    assert strategy.decode.latency is not None
    assert sum(run.system.gpus(run.deployment).values()) == 3 * 1 + 1 * 2
    run.execute()
    document = run.result(["kvplan", "simulate"])
    assert document["gpu"]["count"] == 5
    assert document["pool"]["num_blocks"] == sum(config.num_blocks for config in run.system.instances)


@pytest.mark.parametrize(
    ("model", "tp", "blocks", "block_bytes", "state_bytes"),
    [
        # Groups of 12 layers each: keys and values of 8 heads of 64, 16 tokens, in 2 bytes.
        ("gpt-oss-20b", 1, (1, 1), 12 * 2 * 8 * 64 * 16 * 2, 0),
        ("gpt-oss-20b", 4, (1, 1), 12 * 2 * 8 * 64 * 16 * 2, 0),
        # Groups of 10 of which one is filled up: a block is read over all ten.
        ("gemma-3-27b", 2, (1, 6), 10 * 2 * 16 * 128 * 16 * 2, 0),
        # Groups of 4; a state is read without what it is padded with.
        ("nemotron-h-8b", 1, (1, 6), 4 * 2 * 8 * 128 * 1040 * 2, 17_022_976),
    ],
)
def test_bytes_of_groups(
    model: str, tp: int, blocks: tuple[int, int], block_bytes: int, state_bytes: int
) -> None:
    run = run_of({**LLAMA, "model": model, "parallel.tp": tp, "engine.max_model_len": 8192})
    strategy = strategy_of(run)
    assert (strategy.block_bytes, strategy.state_bytes) == (block_bytes, state_bytes)
    config = run.deployment.config
    assert isinstance(config, EngineConfig)
    full = sum(group.kind == "full" for group in config.groups)
    assert (full, len(config.groups) - full) == blocks
    names = [item.name for item in run.assumptions]
    assert ("disaggregation.state_bytes" in names) == bool(state_bytes)
    assert "disaggregation.block_bytes" in names


def test_windows_kept_as_full_attention_are_sent_whole() -> None:
    """What vLLM does where its hybrid manager is turned off."""
    whole = strategy_of(run_of({**LLAMA, "model": "gemma-3-4b", "cache.groups": [{"kind": "full"}]}))
    run = run_of({**LLAMA, "model": "gemma-3-4b"})
    config = run.deployment.config
    assert isinstance(config, EngineConfig)
    assert whole.block_bytes < len(config.groups) * strategy_of(run).block_bytes <= 1.3 * whole.block_bytes


def test_what_to_know_of_groups() -> None:
    chunks = {"cache.groups": [{"kind": "full"}, {"kind": "chunked", "window": 64}]}
    assert any("ends with a chunk of 64 tokens" in text for text in run_of({**BARE, **chunks}).warnings)
    older = run_of({**LLAMA, "model": "gpt-oss-20b", "engine.version": "0.30.0"})
    assert any("as by vLLM 0.33's NIXL connector, not that of 0.30.0" in text for text in older.warnings)
    assert not run_of({**LLAMA, "model": "gpt-oss-20b"}).warnings
    states = run_of({**LLAMA, "model": "nemotron-h-8b"})
    assert any("VLLM_SSM_CONV_STATE_LAYOUT=DS" in text for text in states.warnings)


def test_groups_without_a_model_share_a_tokens_bytes() -> None:
    flags = {**BARE, "cache.groups": [{"kind": "full"}, {"kind": "sliding", "window": 64}, {"kind": "mamba"}]}
    strategy = strategy_of(run_of(flags))
    assert strategy.block_bytes == strategy.state_bytes == 131_072 * 16 // 2


def test_a_link_of_ones_own() -> None:
    run = run_of({**BARE, "disaggregation.bandwidth": "10GB/s", "disaggregation.latency": "1ms"})
    assert strategy_of(run).route[0].carrier.seconds(10**10) == pytest.approx(1.001)


@pytest.mark.parametrize(
    ("flags", "error", "where", "text"),
    [
        ({"disaggregation.link": "ib-nrd"}, UnknownName, "disaggregation.link", "did you mean ib-ndr"),
        ({"disaggregation.link": "carrier-pigeon"}, UnknownName, "disaggregation.link", "known: ddr5-host"),
        ({"disaggregation.bandwidth": 0}, KvplanError, "disaggregation.bandwidth", "greater than 0"),
        ({"disaggregation.bandwidth": "3 bananas"}, KvplanError, "disaggregation.bandwidth", "bananas"),
        (
            {"disaggregation.decode.instances": 0},
            KvplanError,
            "disaggregation.decode.instances",
            "greater than",
        ),
        ({"disaggregation.decode.instnaces": 2}, KvplanError, "disaggregation.decode.instnaces", "instances"),
        ({"disaggregation.decode.router": "rnd"}, UnknownName, "", "routing policy"),
        ({"disaggregation.layers": 3}, UsageError, "disaggregation.layers", "one piece"),
        ({"disaggregation.streaming": "layerwise"}, UsageError, "disaggregation.layers", "number of layers"),
        ({"disaggregation.dtype": "fp8"}, UsageError, "disaggregation.dtype", "a model and a GPU"),
        ({"disaggregation.through": "host"}, UsageError, "disaggregation.through", "needs the GPU"),
        ({"disaggregation.decode.tp": 2}, UsageError, "disaggregation.decode", "needs a model"),
        ({"parallel.replicas": 2}, UsageError, "parallel.replicas", "instances"),
        (
            {
                "cache.groups": [{"kind": "full"}, {"kind": "sliding", "window": 64}],
                "disaggregation.streaming": "layerwise",
                "disaggregation.layers": 2,
            },
            UsageError,
            "disaggregation.streaming",
            "MoRIIO",
        ),
        ({"cache.eviction": "belady"}, UsageError, "cache.eviction", "belady"),
    ],
)
def test_what_is_refused(flags: dict[str, Any], error: type[KvplanError], where: str, text: str) -> None:
    with pytest.raises(error) as caught:
        run_of({**BARE, **flags}).execute()
    assert text in str(caught.value)
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "where", "text"),
    [
        ({"disaggregation.bytes_per_token": 5}, "disaggregation.bytes_per_token", "follow from"),
        ({"disaggregation.dtype": "fp32"}, "disaggregation.dtype", "not smaller"),
        ({"disaggregation.dtype": "fp9"}, "disaggregation.dtype", "fp9"),
        (
            {"disaggregation.streaming": "layerwise", "disaggregation.layers": 3},
            "disaggregation.layers",
            "follows",
        ),
        ({"disaggregation.decode.gpu": "h1000"}, "disaggregation.decode", "h1000"),
        ({"disaggregation.decode.tp": 3}, "disaggregation.decode", "does not divide"),
        (
            {"disaggregation.decode.tp": 2, "disaggregation.decode.blocks": 9},
            "disaggregation.decode.blocks",
            "follow",
        ),
        ({"disaggregation.decode.tp": 2, "cache.blocks": 900}, "disaggregation.decode", "every pool"),
        (
            {"disaggregation.decode.max_running_requests": 8},
            "disaggregation.decode.max_running_requests",
            "here it is called max_num_seqs",
        ),
        (
            {"disaggregation.decode.num_reserved_decode_tokens": 8},
            "disaggregation.decode.num_reserved_decode_tokens",
            "sglang's decode servers",
        ),
        ({"model": "gemma-3-4b", "parallel.pp": 2}, "disaggregation.prefill.pp", "NIXL connector refuses"),
        (
            {"model": "nemotron-h-8b", "disaggregation.dtype": "fp8"},
            "disaggregation.dtype",
            "sent as they are stored",
        ),
        ({"model": "mamba-2.8b"}, "disaggregation", "state"),
    ],
)
def test_what_is_refused_of_a_model(flags: dict[str, Any], where: str, text: str) -> None:
    with pytest.raises(KvplanError) as caught:
        run_of({**LLAMA, **flags}).execute()
    assert text in str(caught.value)
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("version", "role", "handover"),
    [
        ("0.33", "kv_both", Handover.KEPT),
        ("0.33", "kv_producer", Handover.REPEATED),
        ("0.27.0", "kv_producer", Handover.REPEATED),
        ("0.26.0", "kv_producer", Handover.LOST),
        ("0.24.0", "kv_both", Handover.KEPT),
        ("0.23.0", "kv_both", Handover.LOST),
    ],
)
def test_what_becomes_of_prompts_that_end_while_others_need_their_blocks(
    version: str, role: str, handover: Handover
) -> None:
    run = run_of({**BARE, "engine.version": version, "disaggregation.prefill.kv_role": role})
    assert strategy_of(run).handover is handover


@pytest.mark.parametrize(("sends", "receives"), [("kv_both", "kv_both"), ("kv_producer", "kv_consumer")])
def test_commands_of_both_pools_have_their_roles(sends: str, receives: str) -> None:
    scenario = load_scenario(None, {**BARE, "disaggregation.prefill.kv_role": sends})
    assert [pool.kv_role for pool in pools_of(scenario)] == [sends, receives]
    assert [pool.kv_role for pool in pools_of(load_scenario(None, {**LINEAR, **POOL, **CHAT}))] == [None]
