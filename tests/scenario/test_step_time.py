"""What the time of steps went into: shares add up, follow the load, and are left out where nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.reporting.result import Result
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

LLAMA = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}
CHAT = {"workload.synthesize": "chat", "workload.requests": 60, "workload.rate": 8.0}
FIXED = {"workload.synthesize": "fixed", "workload.requests": 40, "accuracy.ensemble": 0}


def document(flags: dict[str, Any], *, engine: str = "fast") -> dict[str, Any]:
    run = Run(load_scenario(None, {"accuracy.ensemble": 0, **flags}), engine=engine)
    run.execute()
    found = run.result(["kvplan"])
    Result.model_validate(found)
    return found


def step_time(flags: dict[str, Any], *, engine: str = "fast") -> dict[str, Any]:
    found: dict[str, Any] = document(flags, engine=engine)["step_time"]
    return found


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"latency.model": "profile"},
        {"engine.kind": "sglang"},
        {"model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8},
        {"model": "gemma-3-12b"},
        {"model": "mamba-2.8b"},
        {"parallel.replicas": 2, "routing.policy": "least-loaded"},
        {"engine.async_scheduling": False, "engine.enforce_eager": True},
        {"tiers.host.memory": "40GiB"},
        {"sampling.n": 2},
        {"disaggregation.prefill.instances": 1, "disaggregation.decode.instances": 2},
    ],
)
def test_shares_add_up_and_nobody_is_busy_for_longer_than_the_run(more: dict[str, Any]) -> None:
    found = document({**LLAMA, **CHAT, **more})
    time = found["step_time"]
    assert sum(time["parts"].values()) == pytest.approx(1.0)
    assert sum(time["bound"].values()) == pytest.approx(1.0)
    assert 0.0 < time["busy_s"] <= time["instances"] * found["totals"]["makespan_s"] * (1 + 1e-9)
    pools = [more.get(f"disaggregation.{pool}.instances", 0) for pool in ("prefill", "decode")]
    assert time["instances"] == (sum(pools) or more.get("parallel.replicas", 1))
    assert 0.0 < time["peak_compute"] < 1.0
    assert 0.0 < time["peak_bandwidth"] < 1.0
    assert 1 <= time["sampled_steps"] <= 512


def test_bandwidth_that_is_hardly_used_binds_nothing() -> None:
    """One stream of DeepSeek-R1 on eight GPUs: 61 layers of small kernels, an eighth of the bandwidth."""
    lone = {**FIXED, "workload.requests": 2, "workload.max_in_flight": 1, "workload.output_tokens": 200}
    small = step_time({**lone, "model": "deepseek-r1", "gpu": "h200-sxm", "parallel.tp": 8})
    assert small["peak_bandwidth"] < 0.15
    assert small["bound"]["kernels"] > 0.4
    assert small["bound"]["bandwidth"] < 3 * small["peak_bandwidth"] + 0.01
    large = step_time({**lone, **LLAMA})
    assert large["bound"]["bandwidth"] > 0.75
    assert large["bound"]["kernels"] < 0.1


def test_stages_that_wait_for_one_another_use_that_much_less_of_their_peaks() -> None:
    whole, cut = (step_time({**LLAMA, **FIXED, "parallel.pp": pp}) for pp in (1, 4))
    for name in ("peak_compute", "peak_bandwidth"):
        assert 4 * cut[name] == pytest.approx(whole[name], rel=0.1)


@pytest.mark.parametrize("preemption", ["recompute", "swap", "auto"])
def test_what_is_only_asked_for_is_no_busy_time(preemption: str) -> None:
    """Preempted requests ask what computing them again would take; nobody computes it then."""
    crowded = {"workload.synthesize": "fixed", "workload.requests": 40, "workload.rate": 100,
               "workload.prompt_tokens": 2000, "workload.output_tokens": 1500, "cache.blocks": 2000}  # fmt: skip
    swapping = {"cache.host_memory": "40GiB", "engine.preemption": preemption}
    tiers = {"tiers.host.memory": "40GiB"} if preemption == "recompute" else swapping
    found = document({**LLAMA, **crowded, **tiers})
    assert found["totals"]["preemptions"] > 5
    assert 0.9 * found["totals"]["makespan_s"] < found["step_time"]["busy_s"]
    assert found["step_time"]["busy_s"] <= found["totals"]["makespan_s"] * (1 + 1e-9)


def test_the_reference_engine_sees_the_same() -> None:
    flags = {**LLAMA, **CHAT}
    assert step_time(flags) == step_time(flags, engine="reference")


def test_long_prompts_are_bound_by_arithmetic_and_short_answers_of_few_by_bandwidth() -> None:
    prompts = step_time(
        {**LLAMA, **FIXED, "workload.rate": 100, "workload.prompt_tokens": 8000, "workload.output_tokens": 2}
    )
    assert prompts["bound"]["compute"] > 0.95
    assert prompts["peak_compute"] > 0.6
    answers = step_time(
        {**LLAMA, **FIXED, "workload.rate": 1, "workload.prompt_tokens": 16, "workload.output_tokens": 200}
    )
    assert answers["bound"]["bandwidth"] > 0.8
    assert answers["parts"]["weights"] > 0.7
    assert answers["peak_bandwidth"] > 0.6


def test_long_contexts_spend_their_time_on_the_cache() -> None:
    found = step_time(
        {
            **LLAMA, **FIXED, "workload.rate": 100, "workload.prompt_tokens": 20_000, "workload.output_tokens": 800,
            "workload.requests": 20,
        }
    )  # fmt: skip
    assert found["parts"]["decode_attention"] > found["parts"]["weights"] / 2


def test_slow_links_and_slow_hosts_show() -> None:
    usual = step_time({**LLAMA, **CHAT, "parallel.tp": 4})
    slow = step_time({**LLAMA, **CHAT, "parallel.tp": 4, "latency.link_efficiency": 0.01})
    assert slow["bound"]["links"] > usual["bound"]["links"] > 0.0
    host = step_time({**LLAMA, **CHAT, "latency.step_s": 0.05})
    assert host["bound"]["host"] > 0.7
    eager = step_time(
        {
            "model": "llama-3.2-1b",
            "gpu": "h100-sxm",
            **CHAT,
            "engine.enforce_eager": True,
            "latency.launch_s": 1e-4,
        }
    )
    assert eager["parts"]["launches"] > 0.5


@pytest.mark.parametrize("streaming", ["whole", "layerwise"])
def test_pools_work_as_one_system(streaming: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What prefill and decode instances do is in one account, and no step is counted twice."""
    monkeypatch.setattr("kvplan.latency.step_sample.StepSample.__init__.__defaults__", (1 << 20,))
    pools = {"disaggregation.prefill.instances": 1, "disaggregation.streaming": streaming}
    found = document({**LLAMA, **CHAT, "workload.requests": 30, **pools})
    time, totals = found["step_time"], found["totals"]
    assert time["sampled_steps"] == totals["steps"]
    assert time["parts"]["prefill_attention"] > 0.0 < time["parts"]["decode_attention"]


def test_a_sample_tells_what_all_steps_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {**LLAMA, **CHAT, "workload.requests": 300}
    few = step_time(flags)
    monkeypatch.setattr("kvplan.latency.step_sample.StepSample.__init__.__defaults__", (1 << 20,))
    every = step_time(flags)
    assert few["sampled_steps"] < 520 < every["sampled_steps"]
    assert few["busy_s"] == every["busy_s"]
    assert few["parts"] == pytest.approx(every["parts"], abs=0.01)
    # A tenth of the time is bound by arithmetic: of 500 steps that is known to 1.4 %.
    assert few["bound"] == pytest.approx(every["bound"], abs=0.03)
    assert few["peak_bandwidth"] == pytest.approx(every["peak_bandwidth"], rel=0.02)


@pytest.mark.parametrize(
    "more",
    [
        {"latency.model": "linear", "latency.a": 0.01, "latency.b": 1e-5, "latency.c": 1e-8},
        {"disaggregation.prefill.instances": 1, "disaggregation.decode.gpu": "a100-80g"},
        {"cache.allocation.kind": "contiguous"},
    ],
)
def test_nothing_is_said_where_nobody_knows(more: dict[str, Any]) -> None:
    assert step_time({**LLAMA, **CHAT, **more}) is None


def test_a_run_that_turns_everybody_away_has_no_steps() -> None:
    flags = {**LLAMA, **FIXED, "workload.rate": 1.0, "workload.prompt_tokens": 500_000}
    assert step_time(flags) is None
