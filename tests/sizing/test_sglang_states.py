"""What SGLang's radix cache knows of a model's states."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvplan.errors import AnswerIsNo
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run
from kvplan.sizing.capacity import fit_model
from kvplan.sizing.sglang.page import spare_states
from kvplan.sizing.sglang.states import caches_states, state_chunk
from kvplan.specs.catalog import load_gpu, load_model


@pytest.mark.parametrize(
    ("name", "chunk", "known", "spare", "caches"),
    [
        ("qwen3-next-80b-a3b", 64, True, 2, True),
        ("nemotron-3-nano-30b-a3b", 128, True, 2, True),
        ("granite-4.0-h-small", 256, False, 2, True),
        ("lfm2-1.2b", 64, True, 0, True),
        ("jamba-v0.1", 64, True, 0, False),
    ],
)
def test_by_model(name: str, chunk: int, known: bool, spare: int, caches: bool) -> None:
    model = load_model(name)
    fit = fit_model(model, load_gpu("h200"), engine="sglang")
    assert state_chunk(model) == (chunk, known)
    assert (spare_states(model, fit.serving, 1), caches_states(model, fit.serving)) == (spare, caches)
    one_by_one = replace(fit.serving, async_scheduling=False)
    assert spare_states(model, one_by_one, 1) == 0
    assert spare_states(model, one_by_one, 64) == spare // 2
    assert spare_states(model, replace(fit.serving, version=(0, 5, 13)), 1) == 0


def test_a_pool_of_states_says_how_many_it_has() -> None:
    fit = fit_model(load_model("qwen3-next-80b-a3b"), load_gpu("b200"), engine="sglang")
    capacity = fit.binding.capacity
    assert capacity.states is not None
    assert capacity.sequences == capacity.states // 5
    assert (
        fit_model(load_model("llama-3.1-8b"), load_gpu("b200"), engine="sglang").binding.capacity.states
        is None
    )


def test_without_slots_for_one_request_nothing_fits() -> None:
    """SGLang parts its memory between states and tokens, so tokens that are left do not help."""
    model, gpu = load_model("qwen3.5-397b-a17b-nvfp4"), load_gpu("b300")
    fit = fit_model(model, gpu, engine="sglang", max_model_len=2048)
    assert fit.binding.capacity.sequences == 0
    assert fit.kv_tokens > 2048
    assert not fit.fits
    assert fit.longest_context() == 0
    assert fit.binding.missing_slots is not None
    roomy = fit_model(model, gpu, engine="sglang", max_model_len=250_000, utilization=0.85)
    assert roomy.longest_context() == roomy.kv_tokens < 250_000
    assert not roomy.fits


def test_a_simulation_without_slots_says_so() -> None:
    flags = {"model": "qwen3.5-397b-a17b-nvfp4", "gpu": "b300", "engine.kind": "sglang",
             "engine.context_length": 2048, "workload.synthesize": "fixed"}  # fmt: skip
    with pytest.raises(AnswerIsNo, match="2 slots for states of recurrent layers, and a request takes 5"):
        Run(load_scenario(None, flags))
