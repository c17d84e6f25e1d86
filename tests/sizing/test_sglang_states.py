"""What SGLang's radix cache knows of a model's states."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvplan.sizing.capacity import fit_model
from kvplan.sizing.sglang.states import caches_states, can_track, state_chunk
from kvplan.specs.catalog import load_gpu, load_model


@pytest.mark.parametrize(
    ("name", "chunk", "known", "tracks", "caches"),
    [
        ("qwen3-next-80b-a3b", 64, True, True, True),
        ("nemotron-3-nano-30b-a3b", 128, True, True, True),
        ("granite-4.0-h-small", 256, False, True, True),
        ("lfm2-1.2b", 64, True, False, True),
        ("jamba-v0.1", 64, True, False, False),
    ],
)
def test_by_model(name: str, chunk: int, known: bool, tracks: bool, caches: bool) -> None:
    model = load_model(name)
    fit = fit_model(model, load_gpu("h200"), engine="sglang")
    assert state_chunk(model) == (chunk, known)
    assert (can_track(model, fit.serving), caches_states(model, fit.serving)) == (tracks, caches)
    assert not can_track(model, replace(fit.serving, version=(0, 5, 13)))


def test_a_pool_of_states_says_how_many_it_has() -> None:
    fit = fit_model(load_model("qwen3-next-80b-a3b"), load_gpu("b200"), engine="sglang")
    capacity = fit.binding.capacity
    assert capacity.states is not None
    assert capacity.sequences == capacity.states // 5
    assert (
        fit_model(load_model("llama-3.1-8b"), load_gpu("b200"), engine="sglang").binding.capacity.states
        is None
    )
