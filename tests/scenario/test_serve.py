"""The command under a plan starts the engine that was simulated, not the engine's defaults."""

from __future__ import annotations

import pytest

from kvplan.scenario.load import load_scenario
from kvplan.scenario.serve import serve_line

LLAMA = {
    "model": "llama-3.1-8b",
    "gpu": "h100-sxm",
    "workload.synthesize": "chat",
    "engine.max_model_len": 8192,
}


TAIL = """'{"threshold": 4096, "next_prompt_estimate": 512}'"""


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        (["engine.async_scheduling=false"], "--no-async-scheduling"),
        (["engine.version=0.10.1"], ""),
        (["engine.version=0.10.1", "engine.async_scheduling=true"], "--async-scheduling"),
        (["engine.chunked_prefill=false"], "--no-enable-chunked-prefill"),
        (["engine.policy=priority"], "--scheduling-policy priority"),
        (["cache.blocks=5000"], "--num-gpu-blocks-override 5000"),
        (["cache.prefix=none"], "--no-enable-prefix-caching"),
        (["parallel.cp=2"], "--prefill-context-parallel-size 2 --decode-context-parallel-size 2"),
        (["engine.version=0.25", "parallel.cp=2"], "--prefill-context-parallel-size 2"),
        (["engine.kind=sglang", "cache.prefix=none"], "--disable-radix-cache"),
        (["engine.kind=sglang", "engine.max_total_tokens=50000"], "--max-total-tokens 50000"),
        (["engine.kind=sglang", "cache.blocks=5000"], "--max-total-tokens 5000"),
        (
            ["engine.kind=sglang", "engine.schedule_policy=lpm", "cache.eviction=lfu"],
            "--schedule-policy lpm --radix-eviction-policy lfu",
        ),
        (["engine.kind=sglang", "engine.radix_eviction_policy=lru"], ""),
        (["latency.expert_exchange=deepep_low_latency"], ""),  # nothing is exchanged
        (
            [
                "engine.kind=sglang",
                "engine.radix_eviction_policy=tlru",
                "engine.radix_eviction_policy_config={threshold: 4k, next_prompt_estimate: 512}",
            ],
            f"--radix-eviction-policy tlru --radix-eviction-policy-config {TAIL}",
        ),
    ],
)
def test_what_was_chosen_is_said(settings: list[str], flags: str) -> None:
    engine = [text for text in settings if text.startswith(("engine.kind", "engine.version"))]
    plain = serve_line(load_scenario(None, LLAMA, engine))
    assert plain is not None
    assert serve_line(load_scenario(None, LLAMA, settings)) == f"{plain} {flags}".strip()


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        (["parallel.dp_attention=true"], "--all2all-backend deepep_low_latency"),
        ([], ""),  # vLLM sums inside a tensor-parallel group
        (["engine.kind=sglang"], "--moe-a2a-backend deepep --deepep-mode low_latency"),
        (["engine.kind=sglang", "engine.version=0.4.10"], "--enable-deepep-moe --deepep-mode low_latency"),
    ],
)
def test_the_way_tokens_reach_experts_is_said(settings: list[str], flags: str) -> None:
    model = {**LLAMA, "model": "qwen3-30b-a3b", "parallel.tp": 4, "parallel.expert_parallel": True}
    plain = serve_line(load_scenario(None, model, settings))
    assert plain is not None
    way = "latency.expert_exchange=deepep_low_latency"
    assert serve_line(load_scenario(None, model, [*settings, way])) == f"{plain} {flags}".strip()
    most = serve_line(load_scenario(None, model, [*settings, way.replace("low_latency", "high_throughput")]))
    assert most is not None
    assert ("--deepep-mode normal" in most) is ("sglang" in str(settings))


@pytest.mark.parametrize(
    "settings",
    [
        ["cache.eviction=lfu"],
        ["engine.version=0.12", "parallel.cp=2"],
        ["engine.kind=sglang", "cache.eviction=fifo"],
        ["engine.kind=sglang", "engine.version=0.5.9", "cache.eviction=slru"],
    ],
)
def test_what_an_engine_does_not_have_starts_with_no_command(settings: list[str]) -> None:
    assert serve_line(load_scenario(None, LLAMA, settings)) is None


def test_what_sglang_would_take_of_itself_is_not_said_and_its_opposite_is() -> None:
    flags = {
        "model": "qwen3-vl-8b",
        "gpu": "h100-sxm",
        "workload.synthesize": "chat",
        "engine.kind": "sglang",
    }

    def line(*settings: str) -> str:
        found = serve_line(load_scenario(None, flags, [*settings]))
        assert found is not None
        return found

    assert line() == line("cache.eviction=priority")
    assert line("cache.eviction=lru") == f"{line()} --radix-eviction-policy lru"
