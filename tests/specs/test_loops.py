"""Looped models: a cache for every pass over a layer, weights once."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count, stage_weights
from kvplan.specs.huggingface import import_config
from kvplan.specs.huggingface.reader import Imported

PLAIN: dict[str, Any] = {
    "architectures": ["OuroForCausalLM"],
    "model_type": "ouro",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
ROW = 2 * 2 * 64 * 2
"""Bytes of a token in one pass: K and V of two heads in 16 bits."""


def read(**fields: Any) -> Imported:
    return import_config({**PLAIN, **fields}, "config.json", name="looped")


@pytest.mark.parametrize("counter", ["total_ut_steps", "loop_num", "n_recurrent_loops"])
def test_every_pass_keeps_a_cache_and_weights_count_once(counter: str) -> None:
    once, looped = read().model, read(**{counter: 4}).model
    assert size_model(looped, context_tokens=64).kv_bytes_per_token == 4 * 6 * ROW
    assert parameter_count(looped) == parameter_count(once)
    # A stage of a pipeline holds its share of the layers, whatever passes it is said to hold.
    assert stage_weights(looped, pp=2).by_component == stage_weights(once, pp=2).by_component


def test_passes_are_said() -> None:
    assert "6 layers make 24 passes" in " ".join(read(total_ut_steps=4).warnings)
    assert not read(total_ut_steps=1).warnings
    assert not read(n_recurrent_loops=1, n_input_layers=2, n_recurrent_layers=2, n_output_layers=2).warnings


def test_only_the_layers_between_the_first_and_the_last_loop() -> None:
    fields = {"model_type": "dory", "n_recurrent_loops": 3, "n_input_layers": 2, "n_output_layers": 2}
    types = ["full_attention", "mlp"] * 3
    model = read(**fields, layer_types=types).model
    assert model.num_layers == 2 + 3 * 2 + 2
    assert size_model(model, context_tokens=64).kv_bytes_per_token == (1 + 3 + 1) * ROW
    assert parameter_count(model) == parameter_count(read(model_type="dory", layer_types=types).model)
    overwritten = read(**fields, layer_types=types, recurrent_kv_cache_mode="last_loop").model
    assert size_model(overwritten, context_tokens=64).kv_bytes_per_token == 3 * ROW


def test_later_passes_of_a_loop_coder_have_a_window() -> None:
    model = read(model_type="iquestloopcoder", loop_num=2, loop_window_size=64).model
    assert [row.count for row in size_model(model, context_tokens=64).rows] == [6, 6]
    assert size_model(model, context_tokens=64).kv_bytes_per_token == 6 * ROW
    assert parameter_count(model) == parameter_count(read().model)


def test_two_stacks_of_cycles_have_their_weights_once() -> None:
    cycles = {"model_type": "hrm_text", "H_cycles": 2, "L_cycles": 3, "num_key_value_heads": 4}
    model = read(**cycles, num_hidden_layers=3).model
    assert model.num_layers == 3 * 2 * 4
    again = read(**cycles, num_hidden_layers=3 * 2 * 4, num_layers_per_stack=3).model
    assert parameter_count(again) == parameter_count(model)
    plain = read(num_key_value_heads=4).model  # as many layers as both stacks
    assert (
        parameter_count(model) == parameter_count(plain) + 6 * 256 * 4 * 64
    )  # and a gate of attention in each


def test_a_counter_nobody_knows_is_never_passed_over() -> None:
    with pytest.raises(SpecError, match="n_thought_loops"):
        read(model_type="thinker", n_thought_loops=4)
    assert "n_thought_loops" in " ".join(read(model_type="llama", n_thought_loops=4).warnings)
    assert not read(model_type="llama", n_thought_loops=1).warnings


def test_passes_beyond_any_model_are_refused() -> None:
    with pytest.raises(SpecError, match="passes"):
        read(total_ut_steps=10**9)
    with pytest.raises(SpecError, match="not within"):
        read(n_recurrent_loops=2, n_input_layers=9)
