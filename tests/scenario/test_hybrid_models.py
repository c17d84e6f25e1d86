"""Models whose layers keep windows, chunks or states, from the registry through the engine."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import UsageError
from kvplan.scenario.load import load_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.run import Run
from kvplan.specs.catalog import load_model
from kvplan.specs.resolve import resolve_model

FLAGS = {
    "gpu": "b200",
    "workload.synthesize": "chat", "workload.requests": 6, "workload.rate": 5.0,
    "workload.prompt_tokens": 600, "workload.output_tokens": 80,
    "engine.max_model_len": 4096, "accuracy.ensemble": 0,
}  # fmt: skip

STATE_ONLY = ["mamba-2.8b", "falcon-mamba-7b", "codestral-mamba-7b", "rwkv-4-7b"]


def simulated(model: str, *assignments: str) -> tuple[Run, dict[str, Any]]:
    run = Run(load_scenario(None, {**FLAGS, "model": model}, assignments))
    run.execute()
    return run, run.result(["kvplan"])


@pytest.mark.parametrize(
    ("model", "tp", "kinds"),
    [
        ("gemma-3-4b", 1, {"sliding", "full"}),
        ("gpt-oss-20b", 1, {"sliding", "full"}),
        ("mistral-7b-v0.1", 1, {"sliding"}),
        ("llama-4-scout", 8, {"chunked", "full"}),
        ("jamba-v0.1", 8, {"mamba", "full"}),
        ("zamba-7b-v1", 1, {"mamba", "full"}),
        ("nemotron-h-8b", 1, {"mamba", "full"}),
        ("qwen3-next-80b-a3b", 8, {"mamba", "full"}),
        ("kimi-linear-48b-a3b", 8, {"mamba", "full"}),
        ("recurrentgemma-2b", 1, {"mamba", "sliding"}),
        ("deepseek-v4-flash", 8, {"full", "sliding"}),
        *((name, 1, {"mamba"}) for name in STATE_ONLY),
    ],
)
def test_every_kind_of_layer_is_simulated(model: str, tp: int, kinds: set[str]) -> None:
    run, document = simulated(model, f"parallel.tp={tp}")
    assert {group.kind for group in run.deployment.config.groups} == kinds
    totals = document["totals"]
    assert totals["finished"] == totals["requests"] == 6
    assert 0 < totals["peak_used_blocks"] <= document["pool"]["usable_blocks"]


@pytest.mark.parametrize("model", STATE_ONLY)
@pytest.mark.parametrize("prefix", ["none", "hash"])
def test_memory_of_a_recurrent_model_does_not_depend_on_length(model: str, prefix: str) -> None:
    peaks = set()
    for prompt in (300, 9600):
        lone = ["workload.requests=1", f"workload.prompt_tokens={prompt}", "engine.max_model_len=1M"]
        chunks = "engine.max_num_batched_tokens=128"
        _, document = simulated(model, f"cache.prefix={prefix}", chunks, *lone)
        assert document["totals"]["finished"] == 1
        assert document["model"]["kv_bytes_per_token"] == 0
        assert document["model"]["state_bytes_per_sequence"] > 0
        (note,) = [text for text in document["warnings"] if "does not grow with length" in text]
        assert note.startswith(f"{model} keeps a state of ")
        assert not any("less than max_model_len" in text for text in document["warnings"])
        peaks.add(document["totals"]["peak_used_blocks"])
    # A state; with prefix caching also the one it was computed from, and one more while a step is in flight.
    assert len(peaks) == 1
    assert peaks == {1} or (prefix == "hash" and max(peaks) <= 3)


def test_a_window_bounds_what_its_layers_hold() -> None:
    held, tokens = {}, {}
    for prompt in (4096, 16_384):
        lone = ["workload.requests=1", f"workload.prompt_tokens={prompt}", "engine.max_model_len=32k"]
        _, document = simulated("gpt-oss-20b", "engine.max_num_batched_tokens=1024", *lone)
        totals = document["totals"]
        held[prompt] = totals["peak_used_blocks"]
        tokens[prompt] = totals["prompt_tokens"] + totals["output_tokens"]
    # Half of the layers keep everything, half 128 tokens and what is in flight.
    grown = (tokens[16_384] - tokens[4096]) / 16
    assert held[16_384] - held[4096] == pytest.approx(grown, abs=2)


@pytest.mark.parametrize("model", ["t5-small", "llama-3.2-11b-vision"])
def test_layers_that_attend_to_an_encoder_are_refused_by_name(model: str) -> None:
    assert resolve_model(model).model.name == load_model(model).name
    with pytest.raises(UsageError, match="cross K and V"):
        simulated(model)


@pytest.mark.parametrize(("model", "why"), [("jamba-v0.1", "not simulated"), ("gemma-3-27b", "vLLM refuses")])
def test_what_context_parallelism_does_not_divide(model: str, why: str) -> None:
    flags = {"model": model, "gpu": "h200-sxm", "parallel.tp": 4, "workload.synthesize": "chat"}
    with pytest.raises(UsageError, match="divides the cache of full attention") as refused:
        resolve_deployment(load_scenario(None, {**flags, "parallel.cp": 2}))
    assert why in str(refused.value.hint)


def test_a_model_that_is_not_started_at_its_full_reach_says_so() -> None:
    flags = {"model": "phi-3.5-mini-instruct", "gpu": "h100-sxm", "workload.synthesize": "chat"}
    plain = resolve_deployment(load_scenario(None, flags))
    assert plain.config.max_model_len == 4096
    assert [words for words in plain.warnings if "engine.max_model_len=131072" in words]
    for more in ({"engine.max_model_len": 131_072}, {"engine.version": "0.11.0"}):
        whole = resolve_deployment(load_scenario(None, {**flags, **more}))
        assert whole.config.max_model_len == 131_072
        assert not any("LongRoPE" in words for words in whole.warnings)
