"""Models whose windows have a pool of their own under SGLang: both pools, and what goes with them."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.speculation.strategy import Speculation
from kvplan.errors import UsageError
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.load import load_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.run import Run
from kvplan.scenario.system import System, system_of

GPT_OSS = ("engine.kind=sglang", "model=gpt-oss-20b", "gpu=h100-sxm", "workload={synthesize: fixed}")


def _system(*assignments: str) -> tuple[Deployment, System]:
    scenario = load_scenario(None, {}, [*GPT_OSS, *assignments])
    deployment = resolve_deployment(scenario)
    return deployment, system_of(scenario, deployment)


def _windows(system: System) -> tuple[int, int]:
    assert isinstance(system.strategy, WindowPools)
    return system.strategy.windows.span, system.strategy.windows.pool_tokens


def test_the_window_pool_has_its_share_of_the_full_one() -> None:
    deployment, system = _system()
    assert deployment.fit is not None
    # Of its window of 128 tokens, gpt-oss counts one for the token itself.
    assert _windows(system) == (127, deployment.fit.kv_tokens * 4 // 5)
    said = {item.name: item.value for item in system.assumptions}
    assert said["engine.swa_max_total_tokens"] == deployment.fit.kv_tokens * 4 // 5
    assert said["engine.sliding_window_size"] == 127
    assert _windows(_system("engine.max_total_tokens=1001")[1]) == (127, 800)


@pytest.mark.parametrize(("model", "span"), [("llama-4-scout", 8192), ("gemma-4-31b", 1023)])
def test_how_far_models_look_back(model: str, span: int) -> None:
    _, system = _system(f"model={model}", "gpu=b200", "parallel.tp=8")
    assert _windows(system)[0] == span


def test_models_without_such_a_pool_and_full_pools_alone_need_none() -> None:
    assert _system("model=llama-3.1-8b")[1].strategy is None
    assert _system("model=gemma-3-12b")[1].strategy is None
    assert _system("cache.blocks=10000")[1].strategy is None


TOGETHER = "not simulated together"
DRAFTS = "speculative={method: draft_model, model: llama-3.2-1b, tokens: 2, acceptance: 0.5}"


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (("engine.disable_radix_cache=true", DRAFTS), "leave the radix cache on"),
        (("engine.disable_radix_cache=true", "engine.max_running_requests=8"), "leave the radix cache on"),
        (("engine.max_total_tokens=120",), "holds no request"),
        (("model=deepseek-v4-flash", "gpu=b200", "parallel.tp=8"), "not simulated yet"),
    ],
)
def test_what_is_not_simulated_is_refused(assignments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        _system(*assignments)
    assert words in f"{caught.value} {caught.value.hint}"


def test_drafts_have_places_in_both_pools() -> None:
    deployment, system = _system(DRAFTS)
    strategy, config = system.strategy, deployment.config
    assert isinstance(strategy, Speculation)
    assert isinstance(config, SglangConfig)
    assert strategy.states is None
    assert strategy.windows is not None
    assert strategy.windows.pool_tokens == config.pool_tokens * 4 // 5
    assert config.max_running_requests == 48
    assert "engine.swa_max_total_tokens" in {item.name for item in system.assumptions}


CHAT: dict[str, Any] = {
    "engine.kind": "sglang", "model": "gpt-oss-20b", "gpu": "h100-sxm", "workload.synthesize": "chat",
    "workload.requests": 60, "workload.rate": 40.0,
    "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8,
}  # fmt: skip


def _figures(section: str = "sliding windows", **flags: Any) -> dict[str, Any]:
    run = Run(load_scenario(None, {**CHAT, **{name.replace("__", "."): flags[name] for name in flags}}, []))
    run.execute()
    assert run.recorder.totals.finished == 60
    return {metric.name: metric.value for metric in run.recorder.sections[section]}


def test_a_run_says_what_both_pools_held() -> None:
    figures = _figures()
    assert figures["window_pool_tokens"] == figures["full_pool_tokens"] * 4 // 5
    assert 0 < figures["window_peak_tokens"] < figures["full_peak_tokens"]
    assert figures["slid_tokens"] > 0
    scarce = _figures(engine__max_total_tokens=20_000, engine__context_length=16_384)
    assert scarce["window_evicted_tokens"] > figures["window_evicted_tokens"] == 0
    assert scarce["window_peak_tokens"] <= scarce["window_pool_tokens"] == 16_000
    assert _figures("sliding windows 1", parallel__replicas=2)["slid_tokens"] > 0
