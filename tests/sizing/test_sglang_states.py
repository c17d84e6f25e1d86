"""What SGLang's radix cache knows of a model's states."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
