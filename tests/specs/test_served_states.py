"""States, loops and compositions of layers as the engines' own classes for new models have them."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.size import size_model
from kvplan.sizing.state import exports_checkpoints
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config
from kvplan.specs.model import ModelSpec

NEW: dict[str, Any] = {
    "model_type": "brand_new", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
ROW = 2 * 2 * 64 * 2
"""Bytes of a token in a layer of two KV heads of 64 in 16 bits."""
LATENT: dict[str, Any] = {
    "kv_lora_rank": 64, "q_lora_rank": 96, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
}  # fmt: skip


def build(**fields: Any) -> ModelSpec:
    return import_config({**NEW, **fields}, "config.json", name="served").model


def windows(model: ModelSpec) -> list[int | None]:
    return [getattr(block.attention, "window", None) for block in model.layers()]


def kimi(**linear: Any) -> ModelSpec:
    listed = {"full_attn_layers": [4, 8], "kda_layers": [1, 2, 3, 5, 6, 7], "num_heads": 4, "head_dim": 128}
    return build(model_type="kimi_linear", linear_attn_config={**listed, **linear}, **LATENT)


def test_a_bound_of_the_gate_may_stand_with_the_linear_layers() -> None:
    for bound, exports in ((None, False), (-5.0, True)):
        states = [block.state for block in kimi(gate_lower_bound=bound).layers() if block.state is not None]
        assert [exports_checkpoints(state, 9) for state in states] == [exports] * 6


def test_gates_of_linear_layers_may_be_of_full_rank() -> None:
    low = 512 * 128 + 128 * 512
    more = parameter_count(kimi(use_full_rank_gate=True)) - parameter_count(kimi())
    assert more == 6 * (512 * 512 - low)  # K3: the output gate
    ling = {"model_type": "bailing_hybrid", "layer_group_size": 4, "num_key_value_heads": 8, **LATENT}
    low = 512 * 64 + 64 * 512
    more = parameter_count(build(**ling)) - parameter_count(build(**ling, no_kda_lora=False))
    assert more == 6 * 2 * (512 * 512 - low)  # Ling 3: the forget gate too


@pytest.mark.parametrize(
    "fields",
    [
        {"headwise_attn_output_gate": True},
        {"gated_attention": True, "use_mla_scaling_factor": True},
        {"enable_sink_attention": True, "attn_out_scale": 0.5},
    ],
)
def test_gates_sinks_and_scales_change_no_cache(fields: dict[str, Any]) -> None:
    assert size_model(build(**fields), context_tokens=64).kv_bytes_per_token == 8 * ROW


def test_full_layers_by_number_beside_layers_with_a_state() -> None:
    delta = {
        "linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 64,
        "linear_value_head_dim": 64, "linear_conv_kernel_dim": 4, "linear_attention_type": "Qwen3NextGatedDeltaNet",
    }  # fmt: skip
    model = build(model_type="gigachat3_5", full_attention_layers=[3, 7], **delta, **LATENT)
    kept = [block.attention is not None for block in model.layers()]
    assert kept == ([False] * 3 + [True]) * 2
    assert size_model(model, context_tokens=64).kv_bytes_per_token == 2 * (64 + 16) * 2


def test_layers_put_together_of_a_first_a_repeated_and_a_last_part() -> None:
    parts = {
        "first_layers_types": ["full_attention"], "num_hybrid_layers_block": 2,
        "hybrid_layers_types_block": ["full_attention", "sliding_attention", "sliding_attention"],
        "last_layers_types": ["full_attention"], "use_hybrid_layers": True, "use_sliding_window": True,
    }  # fmt: skip
    whole = build(model_type="iquest_q1", sliding_window=128, **parts)
    assert windows(whole) == [None, None, 128, 128, None, 128, 128, None]
    assert windows(build(sliding_window=128, **{**parts, "use_sliding_window": False})) == [None] * 8
    with pytest.raises(SpecError, match="hybrid_layers_types_block"):
        build(sliding_window=128, **{**parts, "num_hybrid_layers_block": 3})


def test_windows_of_a_model_that_lists_no_layers() -> None:
    assert windows(build(model_type="spark2_5", sliding_window=128)) == [128, 128, 128, None] * 2


@pytest.mark.parametrize("window", [None, False, 0, -1])
def test_a_window_that_is_none_makes_sliding_layers_full(window: object) -> None:
    types = ["sliding_attention", "full_attention"] * 4
    for model_type in ("brand_new", "olmo3", "gemma3_text"):
        model = build(model_type=model_type, sliding_window=window, layer_types=types)
        assert size_model(model, context_tokens=64).kv_bytes_per_token == 8 * ROW


def test_a_window_nobody_gives_is_refused() -> None:
    with pytest.raises(SpecError, match="sliding_window"):
        build(layer_types=["sliding_attention"] * 8)


def test_nanbeige_loops() -> None:
    once, twice = build(model_type="nanbeige"), build(model_type="nanbeige", num_loops=2)
    assert size_model(twice, context_tokens=64).kv_bytes_per_token == 2 * 8 * ROW
    assert parameter_count(twice) == parameter_count(once)


@pytest.mark.parametrize("model_type", ["mistral", "llama", "phi3", "seed_oss", "qwen3_moe"])
def test_a_first_layer_with_a_window_counts_only_for_classes_that_know_it(model_type: str) -> None:
    fields = {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 3}
    assert windows(build(model_type=model_type, **fields)) == [128] * 8
    for knowing in ("qwen2", "qwen3", "brand_new"):
        assert windows(build(model_type=knowing, **fields)) == [None] * 3 + [128] * 5


@pytest.mark.parametrize("model_type", ["gemma3_text", "olmo3", "exaone4"])
def test_a_first_layer_with_a_window_replaces_no_period(model_type: str) -> None:
    fields = {"sliding_window": 128, "use_sliding_window": True}
    with_it = windows(build(model_type=model_type, max_window_layers=3, **fields))
    assert with_it == windows(build(model_type=model_type, **fields))
    assert with_it.count(None) in (1, 2)


def test_one_window_beside_latents_is_read_by_no_engine() -> None:
    model = build(model_type="youtu", sliding_window=128, **LATENT)
    assert size_model(model, context_tokens=64).kv_bytes_per_token == 8 * (64 + 16) * 2


def test_layers_below_the_experts_have_a_period_of_their_own() -> None:
    fields = {"model_type": "cohere2_moe", "sliding_window": 128, "num_experts": 4, "num_experts_per_tok": 2}
    below = build(**fields, first_k_dense_replace=2)
    assert windows(below) == [None, None, 128, 128, 128, None, 128, 128]
    other = build(**fields, first_k_dense_replace=3, prefix_dense_sliding_window_pattern=2)
    assert windows(other) == [128, None, 128, 128, 128, 128, None, 128]
    assert windows(build(**fields)) == [128, 128, 128, None] * 2


def test_windows_of_single_layers_that_vllm_does_not_know_are_said() -> None:
    types = ["sliding_attention", "full_attention"] * 4
    mixed = {**NEW, "model_type": "qwen3_moe", "sliding_window": 128, "layer_types": types}
    said = " ".join(import_config(mixed, "config.json", name="x").warnings)
    assert "vLLM's class for qwen3_moe has no windows of single layers" in said
    said = " ".join(import_config({**mixed, "model_type": "olmo3"}, "config.json", name="x").warnings)
    assert "single layers" not in said


@pytest.mark.parametrize(("crosses", "keeps"), [(False, False), (True, True), (None, True)])
def test_a_decoder_that_crosses_nothing_keeps_no_encoder(crosses: bool | None, keeps: bool) -> None:
    decoder = {
        "model_type": "mbart", "d_model": 512, "decoder_layers": 8, "decoder_attention_heads": 8,
        "decoder_ffn_dim": 1024, "vocab_size": 1000, "max_position_embeddings": 4096,
        **({} if crosses is None else {"add_cross_attention": crosses}),
    }  # fmt: skip
    around = {"model_type": "nemotron_parse", "decoder": decoder, "encoder": {"patch_size": 16}}
    model = import_config({**around, "image_size": [64, 64]}, "config.json", name="x").model
    assert [block.cross is not None for block in model.layers()] == [keeps] * 8
    assert size_model(model, context_tokens=64).kv_bytes_per_token == 8 * 2 * 8 * 64 * 2
