"""Models that vLLM 0.33 serves by classes of their own: sizes are those its classes ask for."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config
from kvplan.specs.model import ModelSpec

NEW: dict[str, Any] = {
    "model_type": "brand_new", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
ROW = 2 * 2 * 64 * 2
"""Bytes of a token in a layer of two KV heads of 64 in 16 bits."""
DELTA: dict[str, Any] = {
    "linear_num_key_heads": 8, "linear_num_value_heads": 8, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
    "linear_conv_kernel_dim": 4,
}  # fmt: skip
HYBRID = ["linear_attention"] * 3 + ["full_attention"]
EXPERTS: dict[str, Any] = {
    "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 128,
}  # fmt: skip


def build(**fields: Any) -> ModelSpec:
    return import_config({**NEW, **fields}, "config.json", name="served").model


def windows(model: ModelSpec) -> list[int | None]:
    return [getattr(block.attention, "window", None) for block in model.layers()]


def per_token(model: ModelSpec) -> int:
    return size_model(model, context_tokens=64).kv_bytes_per_token


def test_alice_has_kimi_delta_attention_under_the_names_of_the_gated_delta_net() -> None:
    fields = {**DELTA, "layer_types": HYBRID, "block_attn_res_block_size": 4, "full_attention_interval": 4}
    model = build(architectures=["AliceAIForCausalLM"], model_type="alice_ai", **fields, **EXPERTS)
    assert [block.state.kind for block in model.layers() if block.state] == ["kimi_delta"] * 3
    state = 3 * (3 * 8 * 64 * 3 * 2 + 8 * 64 * 64 * 4)
    assert size_model(model, context_tokens=64).state_bytes_per_sequence == state
    assert per_token(model) == ROW


def test_a_list_of_layers_outweighs_other_ways_of_saying_it() -> None:
    model = build(layer_types=HYBRID, full_attention_interval=4, **DELTA)
    assert [block.attention is not None for block in model.layers()] == [False, False, False, True]


def test_mimo_v2_chunks_nothing() -> None:
    fields = {"hybrid_layer_pattern": [0, 1, 1, 0], "sliding_window": 128, "attention_chunk_size": 128}
    swa = {"swa_num_key_value_heads": 4, "swa_head_dim": 64, "swa_v_head_dim": 32, "v_head_dim": 32}
    model = build(model_type="mimo_v2", attention_projection_layout="fused_qkv", **fields, **swa)
    assert windows(model) == [None, 128, 128, None]
    assert per_token(model) == 2 * 2 * (64 + 32) * 2


def test_gates_and_steps_of_experts_change_no_cache() -> None:
    model = build(model_type="k2_horizon", attention_gate_func="silu", decoder_sparse_step=1, **EXPERTS)
    assert per_token(model) == 4 * ROW


@pytest.mark.parametrize("key", ["interleaved_sliding_window", "sliding_window"])
@pytest.mark.parametrize("types", [None, ["sliding_attention", "full_attention"] * 2])
def test_windows_in_a_list_beside_kinds_or_without(key: str, types: list[str] | None) -> None:
    model = build(layer_types=types, sliding_window_pattern=2, **{key: [128, None, 256, None]})
    assert windows(model) == [128, None, 256, None]


def test_one_window_of_every_layer_under_another_name() -> None:
    assert windows(build(model_type="PanguEmbedded", interleaved_sliding_window=128)) == [128] * 4


def test_chunks_without_a_size_are_windows() -> None:
    types = ["chunked_attention", "full_attention"] * 2
    assert windows(build(model_type="rnj1", layer_types=types, sliding_window=256)) == [256, None, 256, None]


def test_heads_of_single_layers_in_a_list() -> None:
    listed = [{"head_dim": 64}, {"head_dim": 128}] * 2
    assert per_token(build(per_layer_config=listed)) == 2 * ROW + 2 * 2 * ROW
    named = {str(index): own for index, own in enumerate(listed)}
    assert per_token(build(per_layer_config=named)) == 2 * ROW + 2 * 2 * ROW


def test_widths_of_single_layers() -> None:
    wider = build(per_layer_config={"1": {"intermediate_size": 2048}})
    assert parameter_count(wider) - parameter_count(build()) == 3 * 512 * 1024


@pytest.mark.parametrize("own", [{"attention_stride": 2}, {"kv_pool": 4}])
def test_a_field_of_one_layer_that_nobody_knows_is_refused(own: dict[str, int]) -> None:
    with pytest.raises(SpecError, match=next(iter(own))):
        build(per_layer_config={"2": own})


def test_a_short_list_of_layers_is_refused() -> None:
    with pytest.raises(SpecError, match="per_layer_config"):
        build(per_layer_config=[{"head_dim": 64}])


MAMBA: dict[str, Any] = {
    "model_type": "nemotron_h_puzzle", "ssm_state_size": 32, "mamba_num_heads": 16, "mamba_head_dim": 64,
    "n_groups": 2, "conv_kernel": 4, "mlp_hidden_act": "relu2", "n_shared_experts": 1, "n_routed_experts": 8,
    "num_experts_per_tok": 2, "moe_intermediate_size": 64, "moe_shared_expert_intermediate_size": 128,
}  # fmt: skip
BLOCKS: list[dict[str, Any]] = [
    {"block_type": "mamba"}, {"block_type": "moe", "n_routed_experts": 4}, {"block_type": "attention"},
    {"block_type": "moe", "moe_intermediate_size": 32},
]  # fmt: skip


@pytest.mark.parametrize("pattern", [{}, {"hybrid_override_pattern": "ME*E"}])
def test_blocks_found_by_a_search_that_name_their_kind(pattern: dict[str, str]) -> None:
    model = build(**MAMBA, block_configs=BLOCKS, **pattern)
    assert per_token(model) == ROW
    assert [block.state is not None for block in model.layers()] == [True, False, False, False]
    found = [block.mlp for block in model.layers() if block.mlp is not None and block.mlp.kind == "moe"]
    assert [(moe.experts, moe.intermediate_size) for moe in found] == [(4, 64), (8, 32)]


def test_blocks_of_unknown_shape_are_refused() -> None:
    with pytest.raises(SpecError, match="block_configs"):
        build(model_type="nemotron-nas", block_configs=[{"mixer": "attention"}] * 4)


def test_dory_alternates_windows_and_feed_forward_layers_where_nothing_is_listed() -> None:
    model = build(model_type="dory", num_hidden_layers=16, sliding_window=128)
    assert windows(model)[::2] == [128, 128, 128, None] * 2
    assert [block.attention is None for block in model.layers()] == [False, True] * 8


@pytest.mark.parametrize("name", ["vlm_config", "backbone_model"])
def test_a_decoder_under_any_name_beside_encoders_and_experts_of_actions(name: str) -> None:
    text = {**NEW, "model_type": "qwen3_vl_text"}
    action = {**NEW, "hidden_size": 128, "num_hidden_layers": 2}
    beside = {"vision_config": {"depth": 2, "hidden_size": 64}, "expert_config": action}
    model = import_config(
        {"model_type": "alpamayo2_super", name: {"text_config": text}, **beside}, "config.json", name="x"
    ).model
    assert per_token(model) == 4 * ROW


def test_two_decoders_under_unknown_names_are_refused() -> None:
    with pytest.raises(SpecError, match="not understood"):
        import_config({"model_type": "x", "first": NEW, "second": NEW}, "config.json", name="x")


def test_moondream_keeps_its_decoder_under_config_and_text() -> None:
    text = {"dim": 512, "ff_dim": 1024, "n_layers": 4, "n_heads": 8, "n_kv_heads": 2, "vocab_size": 1000}
    whole = {"model_type": "moondream3", "config": {"text": text, "vision": {"enc_dim": 64}}}
    model = import_config(whole, "config.json", name="x").model
    assert per_token(model) == 4 * ROW


@pytest.mark.parametrize("model_type", ["TeleFLM", "molmo"])
def test_heads_left_out_are_one_per_query_head(model_type: str) -> None:
    assert per_token(build(model_type=model_type, num_key_value_heads=None)) == 4 * 4 * ROW


def test_mobius_shares_its_routed_experts_among_blocks_of_layers() -> None:
    fields = {**DELTA, **EXPERTS, "layer_types": HYBRID * 2, "num_hidden_layers": 8}
    own = build(model_type="interns2_preview_text", **fields)
    shared = build(model_type="interns2_mobius_text", num_blocks=4, **fields)
    assert per_token(shared) == per_token(own) == 2 * ROW
    routed = 512 * 8 + 8 * 3 * 512 * 64  # the router and eight experts
    assert parameter_count(own) - parameter_count(shared) == 4 * routed


def test_gates_of_attention_of_looped_models_are_weights() -> None:
    looped = {"num_layers_per_stack": 2, "H_cycles": 1, "L_cycles": 1}
    gate = 512 * 8 * 64
    plain = parameter_count(build(model_type="llama"))
    assert parameter_count(build(model_type="hrm_text", **looped)) == plain + 4 * gate
    types = ["full_attention"] * 4
    mlps = 4 * 3 * 512 * 1024
    assert parameter_count(build(model_type="dory", layer_types=types)) == pytest.approx(
        plain + 4 * gate - mlps, rel=1e-3
    )


QWEN: dict[str, Any] = {**DELTA, "model_type": "qwen3_5_text", "layer_types": HYBRID}


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("Qwen3_5ForConditionalGeneration", 4), ("Qwen3_5MoeForCausalLM", 4), ("Qwen4ExpForCausalLM", 4),
        ("Qwen3NextForCausalLM", 2), ("MiniCPMV4_7ForConditionalGeneration", 2),
        ("InternS2PreviewForConditionalGeneration", 2),
    ],
)  # fmt: skip
def test_vllm_reads_the_dtype_of_a_state_for_few_architectures(architecture: str, size: int) -> None:
    text = {**NEW, **QWEN, "mamba_ssm_dtype": "float32", "architectures": ["Qwen3_5ForCausalLM"]}
    whole = {"architectures": [architecture], "model_type": "around", "text_config": text}
    model = import_config(whole, "config.json", name="x").model
    conv = 3 * 8 * 64 * 3 * 2
    for retention, recurrent in (("vllm", size), ("sglang", 4)):
        report = size_model(model, context_tokens=64, retention=retention)
        assert report.state_bytes_per_sequence == 3 * (conv + 8 * 64 * 64 * recurrent)


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("NemotronH_Nano_VL_V2", 4), ("NemotronH_Nano_Omni_Reasoning_V3", 2), ("NemotronHForCausalLM", 4)],
)
@pytest.mark.parametrize("said", [{}, {"mamba_ssm_cache_dtype": "float32"}])
def test_nemotron_around_sounds_keeps_its_state_in_the_model_s_dtype(
    architecture: str, size: int, said: dict[str, str]
) -> None:
    text = {**NEW, **MAMBA, "model_type": "nemotron_h", "hybrid_override_pattern": "M*M-", **said}
    model = import_config(
        {"architectures": [architecture], "llm_config": text}, "config.json", name="x"
    ).model
    state = 2 * ((16 * 64 + 2 * 2 * 32) * 3 * 2 + 16 * 64 * 32 * size)
    assert size_model(model, context_tokens=64).state_bytes_per_sequence == state


def test_values_of_minicpm3_are_as_wide_as_heads_where_unsaid() -> None:
    config = {
        "architectures": ["MiniCPM3ForCausalLM"], "model_type": "minicpm3", "hidden_size": 2560, "intermediate_size": 6400,
        "kv_lora_rank": 256, "q_lora_rank": 768, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
        "num_attention_heads": 40, "num_key_value_heads": 40, "num_hidden_layers": 62, "vocab_size": 73448,
        "max_position_embeddings": 32768,
    }  # fmt: skip
    model = import_config(config, "config.json", name="minicpm3").model
    assert parameter_count(model) == pytest.approx(4.07e9, rel=0.002)
    assert size_model(model, context_tokens=64, retention="sglang").kv_bytes_per_token == 62 * 288 * 2
    assert size_model(model, context_tokens=64).kv_bytes_per_token == 62 * 40 * (96 + 96) * 2


def test_moondream_3_as_published_leaves_everything_to_its_class() -> None:
    config = {"architectures": ["HfMoondream"], "model_type": "moondream3", "config": {}, "auto_map": {}}
    model = import_config(config, "config.json", name="moondream3").model
    assert per_token(model) == 24 * 2 * 32 * 64 * 2
    assert parameter_count(model) == pytest.approx(9.27e9, rel=0.01)


def test_a_language_model_of_another_repository_is_named() -> None:
    config = {
        "architectures": ["UltravoxModel"],
        "model_type": "ultravox",
        "text_model_id": "meta-llama/Llama-3.1-8B",
    }
    with pytest.raises(SpecError, match=r"another repository's: 'meta-llama/Llama-3\.1-8B'") as caught:
        import_config(config, "config.json", name="ultravox")
    assert "kvplan size meta-llama/Llama-3.1-8B" in (caught.value.hint or "")
    within = {**config, "text_config": {key: value for key, value in NEW.items() if key != "model_type"}}
    assert per_token(import_config(within, "config.json", name="ultravox").model) == 4 * ROW
