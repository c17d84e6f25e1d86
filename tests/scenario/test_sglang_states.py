"""Models with recurrent layers below SGLang: slots, strategy, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.metrics import SECTION
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.speculation.strategy import Speculation
from kvplan.errors import UsageError
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.load import load_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.run import Run
from kvplan.scenario.system import System, system_of

NEXTN = "speculative={method: mtp, tokens: 3, acceptance: 0.8}"


def system(model: str, *assignments: str, gpu: str = "h200", tp: int = 2) -> tuple[Deployment, System]:
    chat = ["engine.kind=sglang", "workload={synthesize: chat, requests: 20, rate: 4}", f"model={model}"]
    scenario = load_scenario(None, {}, [*chat, f"gpu={gpu}", f"parallel.tp={tp}", *assignments])
    deployment = resolve_deployment(scenario)
    return deployment, system_of(scenario, deployment)


def states(found: tuple[Deployment, System]) -> tuple[SglangConfig, RecurrentStates]:
    deployment, built = found
    assert isinstance(deployment.config, SglangConfig)
    assert isinstance(built.strategy, RecurrentStates)
    return deployment.config, built.strategy


def assumed(found: tuple[Deployment, System]) -> dict[str, Any]:
    deployment, built = found
    return {item.name: item.value for item in (*deployment.assumptions, *built.assumptions)}


def test_slots_are_what_the_memory_bill_leaves_and_bound_who_runs() -> None:
    found = system("qwen3-next-80b-a3b")
    config, strategy = states(found)
    assert found[0].fit is not None
    slots = found[0].fit.binding.capacity.states
    assert strategy.rules.slots == slots
    assert config.max_running_requests == strategy.rules.slots // 5 == found[0].fit.binding.capacity.sequences
    said = assumed(found)
    assert said["max_mamba_cache_size"] == slots
    assert said["mamba_radix_cache_strategy"] == "extra_buffer"
    assert said["engine.max_running_requests"] == config.max_running_requests
    fewer, _ = states(system("qwen3-next-80b-a3b", "engine.max_running_requests=7"))
    assert fewer.max_running_requests == 7


@pytest.mark.parametrize(
    ("model", "chunk"),
    [("qwen3.5-27b", 64), ("kimi-linear-48b-a3b", 64), ("nemotron-3-nano-30b-a3b", 128), ("nemotron-h-8b", 256),
     ("granite-4.0-h-small", 256)],
)  # fmt: skip
def test_kernels_of_a_model_leave_states_so_far_apart(model: str, chunk: int) -> None:
    found = system(model)
    config, strategy = states(found)
    assert strategy.rules.spare
    assert strategy.rules.grid(config) == chunk
    assert ("mamba_chunk_size" in assumed(found)) == (chunk == 256)


def test_models_without_spare_states_run_one_step_at_a_time() -> None:
    found = system("lfm2-1.2b", tp=1)
    config, strategy = states(found)
    assert not strategy.rules.spare
    assert config.disable_overlap_schedule
    assert assumed(found)["engine.disable_overlap_schedule"] is True
    # Nor does one that could keep them where nothing runs ahead; on pages it must.
    config, strategy = states(system("qwen3-next-80b-a3b", "engine.disable_overlap_schedule=true"))
    assert (strategy.rules.spare, strategy.rules.slots_per_request(config)) == (False, 3)
    paged = system(
        "nemotron-h-56b", "engine.disable_overlap_schedule=true", "engine.page_size=64", gpu="b200"
    )
    config, strategy = states(paged)
    assert (config.page_size, strategy.rules.spare) == (64, True)
    assert config.max_running_requests == strategy.rules.slots // 4
    assert paged[0].fit is not None
    assert config.max_running_requests == paged[0].fit.binding.capacity.sequences


def test_without_a_radix_cache_a_request_has_one_slot() -> None:
    found = system("qwen3-next-80b-a3b", "cache.prefix=none")
    config, strategy = states(found)
    assert config.max_running_requests == strategy.rules.slots
    assert not config.disable_overlap_schedule
    assert "mamba_radix_cache_strategy" not in assumed(found)


@pytest.mark.parametrize(
    ("model", "assignments", "said"),
    [
        ("jamba-v0.1", (), "none that SGLang's radix cache knows"),
        ("codestral-mamba-7b", (), "nothing per token"),
        ("qwen3-next-80b-a3b", ("engine.version=0.5.10",), "from 0.5.14 on"),
        (
            "qwen3-next-80b-a3b",
            ("cache.prefix=none", "engine.max_running_requests=10"),
            "a state for each of max_running_requests",
        ),
        ("qwen3-next-80b-a3b", (NEXTN, "cache.prefix=none"), "which it sets beside drafts"),
        ("qwen3-next-80b-a3b", ("tiers={host: {memory: 64GB}, disk: {memory: 1TB}}",), "is not simulated"),
    ],
)
def test_what_is_not_simulated_is_refused(model: str, assignments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        system(model, *assignments)


def test_drafts_leave_fewer_slots_and_take_no_more_of_them() -> None:
    """Of each request that may run SGLang keeps a state behind every token of a verification beside."""
    plain, drafted = system("qwen3-next-80b-a3b"), system("qwen3-next-80b-a3b", NEXTN)
    built, fit = drafted[1].strategy, drafted[0].fit
    assert isinstance(built, Speculation)
    assert built.windows is None
    assert built.states is not None
    assert fit is not None
    assert plain[0].fit is not None
    capacity, before = fit.binding.capacity, plain[0].fit.binding.capacity
    assert built.states.slots == capacity.states == assumed(drafted)["max_mamba_cache_size"]
    assert before.states is not None
    assert capacity.states is not None
    assert 0.5 < capacity.states / before.states < 0.6
    config = drafted[0].config
    assert isinstance(config, SglangConfig)
    assert config.max_running_requests == 48 < capacity.states // 5 == capacity.sequences
    few = system("qwen3-next-80b-a3b", NEXTN, "engine.mem_fraction_static=0.7")[0]
    assert isinstance(few.config, SglangConfig)
    assert few.fit is not None
    assert few.config.max_running_requests == few.fit.max_num_seqs == few.fit.binding.capacity.sequences < 48


def test_a_run_with_drafts_says_what_became_of_both() -> None:
    chat = [
        "engine.kind=sglang", "workload={synthesize: chat, requests: 20, rate: 4}", "accuracy.ensemble=0",
        "model=qwen3-next-80b-a3b", "gpu=h200", "parallel.tp=2", NEXTN,
    ]  # fmt: skip
    found = Run(load_scenario(None, {}, chat))
    found.execute()
    assert found.recorder.totals.finished == 20
    assert {SECTION, "speculative decoding"} <= set(found.recorder.sections)


def test_a_pool_that_is_given_is_the_full_pool_alone() -> None:
    _, built = system("qwen3-next-80b-a3b", "cache.blocks=10000")
    assert built.strategy is None


def test_a_run_says_what_became_of_states() -> None:
    chat = ["engine.kind=sglang", "workload={synthesize: chat, requests: 60, rate: 8}", "gpu=h200"]
    served = Run(load_scenario(None, {}, [*chat, "model=qwen3-next-80b-a3b", "parallel.tp=2"]))
    served.execute()
    figures: dict[str, Any] = {metric.name: metric.value for metric in served.recorder.sections[SECTION]}
    assert figures["slots_per_request"] == 3
    assert 0 < figures["peak_held_slots"] <= figures["peak_used_slots"] <= figures["slots"]
    assert figures["cached_states"] > 0
    assert 0 < figures["stateless_tokens"] < figures["matched_tokens"]
