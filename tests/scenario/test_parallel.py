"""Tensor, pipeline and context parallelism in a simulation: pools as sized, decisions as always."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.engine.config import EngineConfig
from kvplan.engine.recorder import RequestRow
from kvplan.errors import KvplanError
from kvplan.scenario.clock import clock_of
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

LINEAR = {"latency.model": "linear", "latency.a": 0.005, "latency.b": 2e-5, "latency.c": 1e-8}
CHAT = {"workload.synthesize": "chat", "workload.requests": 80, "workload.rate": 20.0}
LLAMA = {**LINEAR, **CHAT, "model": "llama-3.1-8b", "gpu": "h100-sxm"}


def run_of(flags: dict[str, Any]) -> Run:
    return Run(load_scenario(None, flags))


def config_of(run: Run) -> EngineConfig:
    assert isinstance(run.deployment.config, EngineConfig)
    return run.deployment.config


@pytest.mark.parametrize("spread", [{"tp": 2}, {"pp": 2}, {"cp": 2}, {"tp": 2, "pp": 2}, {"tp": 2, "cp": 4}])
def test_the_pool_is_what_the_fit_says(spread: dict[str, int]) -> None:
    run = run_of({**LLAMA, **{f"parallel.{name}": value for name, value in spread.items()}})
    fit, config = run.deployment.fit, config_of(run)
    assert fit is not None
    assert config.num_blocks == fit.num_blocks
    # The engine prints tokens that whole requests of max_model_len can have.
    assert config.num_blocks * config.block_size == pytest.approx(fit.kv_tokens, rel=0.02)
    longest = -(-config.max_model_len // config.block_size)
    assert int(fit.max_concurrency) == config.num_blocks // longest


def test_the_longest_request_is_what_the_fit_says() -> None:
    """Windows of half its layers take blocks too: not all that the pool has are one request's."""
    deployment = run_of({**LINEAR, **CHAT, "model": "gpt-oss-120b", "gpu": "h100-sxm"}).deployment
    assert deployment.fit is not None
    longest = deployment.fit.longest_context()
    (said,) = [warning for warning in deployment.warnings if "refuse to start" in warning]
    assert f"one request of {longest:,} tokens" in said


def test_two_gpus_hold_more_than_twice_as_much() -> None:
    """The weights are divided too, so what is left for the cache more than doubles."""
    one = config_of(run_of(LLAMA))
    for name in ("tp", "pp"):
        two = config_of(run_of({**LLAMA, f"parallel.{name}": 2}))
        assert two.num_blocks * two.block_size > 2 * one.num_blocks * one.block_size
    # Context ranks each have all weights: twice as much at most.
    shared = config_of(run_of({**LLAMA, "parallel.cp": 2}))
    assert shared.block_size == 2 * one.block_size
    assert 1.9 * one.num_blocks < 2 * shared.num_blocks <= 2 * one.num_blocks


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_stages_that_are_not_overlapped_are_warned_of(kind: str) -> None:
    """An engine has a batch in every stage: with one at a time throughput is that of one stage."""
    cut = run_of({**LLAMA, "engine.kind": kind, "parallel.pp": 4}).deployment.warnings
    (said,) = [warning for warning in cut if "pipeline stages" in warning]
    assert "up to 4 times" in said
    for spread in ({}, {"parallel.tp": 4}):
        whole = run_of({**LLAMA, "engine.kind": kind, **spread}).deployment.warnings
        assert not any("pipeline" in warning for warning in whole)


def test_decisions_do_not_depend_on_how_layers_are_cut() -> None:
    """On a pool of given size and a given clock, tp and pp change nothing that the scheduler sees."""
    found = []
    for spread in ({}, {"parallel.tp": 4}, {"parallel.pp": 4}, {"parallel.tp": 2, "parallel.pp": 2}):
        rows: list[RequestRow] = []
        run_of({**LLAMA, "cache.blocks": 900, "engine.max_model_len": 8192, **spread}).execute(
            on_request=rows.append
        )
        found.append(rows)
    assert found[0]
    assert all(rows == found[0] for rows in found)


def test_a_block_of_context_ranks_covers_their_shares_together() -> None:
    """cp 4 on blocks of 4 tokens decides what one GPU decides on blocks of 16."""
    rows: list[list[RequestRow]] = [[], []]
    pool = {"cache.blocks": 900, "engine.max_model_len": 8192}
    run_of({**LINEAR, **CHAT, **pool, "cache.block_size": 16}).execute(on_request=rows[0].append)
    run_of({**LINEAR, **CHAT, **pool, "cache.block_size": 4, "parallel.cp": 4}).execute(
        on_request=rows[1].append
    )
    assert rows[0] == rows[1]


def test_kernels_see_a_ranks_own_block(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    flags = {name: value for name, value in LLAMA.items() if not name.startswith("latency.")}
    scenario = load_scenario(None, {**flags, "parallel.cp": 4, "latency.model": "roofline"})
    run = Run(scenario)
    assert config_of(run).block_size == 64
    import kvplan.scenario.clock as clock

    real = clock.build_latency

    def spy(*args: Any, block_size: int, **options: Any) -> Any:
        seen.append(block_size)
        return real(*args, block_size=block_size, **options)

    monkeypatch.setattr(clock, "build_latency", spy)
    clock_of(scenario, run.deployment)
    assert seen == [16]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"model": "gemma-3-27b", "parallel.cp": 2}, "full attention"),
        ({"engine.kind": "sglang", "parallel.cp": 2}, "vLLM's scheduler only"),
        ({"parallel.tp": 3}, "does not divide"),
        ({"parallel.pp": 33}, "more than the 32 layers"),
    ],
)
def test_what_is_refused(flags: dict[str, Any], text: str) -> None:
    with pytest.raises(KvplanError) as caught:
        run_of({**LLAMA, **flags})
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        ({"tp": 8, "attention_ranks": 3}, "tp 8 is no multiple of 3 attention ranks"),
        ({"attention_ranks": 2}, "tp 1 is no multiple of 2 attention ranks"),
        ({"tp": 8, "dp_attention": True, "attention_ranks": 1}, "attention_ranks 1 keeps them together"),
    ],
)
def test_ranks_that_cannot_be_are_refused_without_a_model(spread: dict[str, Any], text: str) -> None:
    flags = {**LINEAR, **CHAT, "cache.blocks": 4000, "engine.max_model_len": 4096}
    with pytest.raises(KvplanError, match=text):
        run_of({**flags, **{f"parallel.{name}": value for name, value in spread.items()}})


def test_every_replica_has_a_host_tier_of_its_own() -> None:
    run = run_of(
        {
            **LLAMA,
            "parallel.replicas": 2,
            "cache.blocks": 900,
            "cache.host_memory": "4GiB",
            "engine.max_model_len": 8192,
        }
    )
    run.execute()
    document = run.result(["kvplan", "simulate"])
    assert sorted(document["strategies"]) == ["tiers 0", "tiers 1"]
    assert document["pool"]["num_blocks"] == 1800
    assert document["gpu"]["count"] == 2
    assert document["totals"]["finished"] == 80


def test_the_capacity_curve_deals_experts_out_as_the_pool_does() -> None:
    flags = {
        **LLAMA, "model": "minimax-m2.5", "gpu": "h200", "parallel.tp": 8, "engine.max_model_len": 8192,
        "workload.requests": 3,
    }  # fmt: skip
    points = []
    for dealt in (False, True):
        run = run_of({**flags, "parallel.expert_parallel": dealt})
        run.execute()
        document, fit = run.result(["kvplan"]), run.deployment.fit
        assert fit is not None
        curve = next(item for item in document["capacity"] if item["dtype"] == fit.kv_format.name)
        points.append(next(p["max_concurrency"] for p in curve["points"] if p["context_tokens"] == 8192))
        assert points[-1] == float(fit.total_concurrency)
    assert points[0] != points[1]
