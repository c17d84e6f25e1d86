"""Configurations to models by rules: a small set written by hand, one for every way of saying a thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config, read_config
from kvplan.specs.huggingface.layout import segments
from kvplan.specs.model import ModelSpec

BASE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 4096,
    "vocab_size": 32000,
    "max_position_embeddings": 8192,
}
MLA: dict[str, Any] = {
    **BASE,
    "model_type": "deepseek_v3",
    "kv_lora_rank": 512,
    "q_lora_rank": 256,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "first_k_dense_replace": 1,
}


def build(config: dict[str, Any]) -> ModelSpec:
    return import_config(config, "config.json", name="test").model


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def kinds(spec: ModelSpec) -> str:
    """One letter a layer: F full, S sliding, C chunked, M MLA, H shared, L state, B both, X cross, - neither."""
    letters = {"full": "F", "sliding": "S", "chunked": "C", "mla": "M", "shared": "H"}
    text = ""
    for block in spec.layers():
        if block.attention is not None and block.state is not None:
            text += "B"
        elif block.attention is not None:
            text += letters.get(block.attention.kind, "?")
        else:
            text += "L" if block.state is not None else "X" if block.cross is not None else "-"
    return text


def per_token(spec: ModelSpec, retention: str = "transformers") -> int:
    return size_model(spec, context_tokens=4096, kv="bf16", retention=retention).kv_bytes_per_token


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 8 * 2 * 4 * 64 * 2),
        ({"head_dim": 128}, 8 * 2 * 4 * 128 * 2),
        ({"num_key_value_heads": None}, 8 * 2 * 16 * 64 * 2),
        ({"v_head_dim": 32}, 8 * 4 * (64 + 32) * 2),
        ({"num_key_value_heads": [1, 2, 4, 8, 1, 2, 4, 8]}, 2 * 2 * (1 + 2 + 4 + 8) * 64 * 2),
        ({"num_attention_heads_per_layer": [16, 8] * 4, "head_dim": 64}, 8 * 2 * 4 * 64 * 2),
    ],
)
def test_heads_and_dimensions(change: dict[str, Any], expected: int) -> None:
    assert per_token(build({**BASE, **change})) == expected


@pytest.mark.parametrize("key", ["num_attention_heads", "n_head"])
@pytest.mark.parametrize("value", [[16], [16] * 7, [], ["16"] * 8, [True] * 8, "16", [[16]] * 8])
def test_heads_are_a_number_or_one_a_layer(key: str, value: Any) -> None:
    with pytest.raises(SpecError) as caught:
        build({**without(BASE, "num_attention_heads"), key: value})
    assert caught.value.where == f"config.json  {key}"
    one_each = build({**without(BASE, "num_attention_heads"), key: [16, 32] * 4})
    assert [block.attention.query_heads for block in one_each.layers()] == [16, 32] * 4


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"model_type": "falcon", "multi_query": True, "new_decoder_architecture": False}, 1),
        ({"model_type": "falcon", "multi_query": False, "new_decoder_architecture": False}, 16),
        ({"model_type": "falcon", "num_kv_heads": 8, "new_decoder_architecture": True}, 8),
        ({"model_type": "gpt_bigcode", "multi_query": True}, 1),
        (
            {
                "model_type": "chatglm",
                "multi_query_attention": True,
                "multi_query_group_num": 2,
                "kv_channels": 64,
            },
            2,
        ),
        ({"model_type": "gpt2"}, 16),
        ({"model_type": "mpt"}, 16),
        ({"model_type": "dbrx", "attn_config": {"kv_n_heads": 8}}, 8),
        ({"model_type": "internlm"}, 16),
    ],
)
def test_legacy_ways_of_counting_kv_heads(config: dict[str, Any], heads: int) -> None:
    spec = build({**without(BASE, "num_key_value_heads"), **config})
    assert {block.attention.kv_heads for block in spec.layers()} == {heads}


def test_legacy_names_are_read() -> None:
    spec = build(
        {
            "model_type": "gpt2",
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "vocab_size": 50257,
        }
    )
    assert (spec.hidden_size, spec.num_layers, spec.max_context, spec.learned_positions) == (
        768,
        12,
        1024,
        1024,
    )
    assert spec.layers()[0].mlp.intermediate_size == 4 * 768


def test_a_nested_text_configuration_is_found_and_class_defaults_fill_it_in() -> None:
    # The published Gemma 3 4B leaves out its heads: they equal the defaults of its class.
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    }
    spec = build(
        {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    )
    assert kinds(spec) == ("SSSSSF" * 6)[:34]
    assert {(b.attention.query_heads, b.attention.kv_heads, b.attention.head_dim) for b in spec.layers()} == {
        (8, 4, 256)
    }


@pytest.mark.parametrize(
    ("model", "text", "parameters"),
    [("ernie4_5_vl_moe", "ernie4_5_vl_moe_text", 29.40e9), ("step3p7", "step3p5", 197.8e9)],
)
def test_experts_that_are_left_out_are_their_classs(model: str, text: str, parameters: float) -> None:
    spec = build(
        {
            "model_type": model,
            "architectures": ["AForConditionalGeneration"],
            "text_config": {"model_type": text},
        }
    )
    assert parameter_count(spec) == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layer_types": ["sliding_attention", "full_attention"] * 4, "sliding_window": 128}, "SFSFSFSF"),
        ({"model_type": "gemma2", "sliding_window": 4096}, "SFSFSFSF"),
        ({"model_type": "cohere2", "sliding_window": 4096}, "SSSFSSSF"),
        ({"model_type": "exaone4", "sliding_window": 4096, "sliding_window_pattern": "LLLG"}, "SSSFSSSF"),
        ({"model_type": "mistral", "sliding_window": 4096}, "SSSSSSSS"),
        ({"model_type": "mistral", "sliding_window": None}, "FFFFFFFF"),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 4}, "FFFFFFFF"),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 4}, "FFFFSSSS"),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192, "no_rope_layers": [1, 1, 1, 0] * 2}, "CCCFCCCF"),
        ({"model_type": "gemma3n_text", "sliding_window": 512, "num_kv_shared_layers": 3}, "SSSSFHHH"),
        ({"hybrid_layer_pattern": [0, 1, 1, 1, 0, 1, 1, 1], "sliding_window": 128}, "FSSSFSSS"),
        ({"layer_types": ["full_attention"] * 11}, "FFFFFFFF"),
    ],
)  # fmt: skip
def test_which_layers_slide(change: dict[str, Any], expected: str) -> None:
    assert kinds(build({**BASE, **change})) == expected


GDN = {
    "model_type": "qwen3_next", "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "num_experts": 0,
}  # fmt: skip
MAMBA2 = {"mamba_num_heads": 32, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4}


@pytest.mark.parametrize(
    ("change", "layers", "hf_state", "vllm_state"),
    [
        (GDN, "LLLFLLLF", 8192 * 4 * 2 + 32 * 128 * 128 * 4, 8192 * 3 * 2 + 32 * 128 * 128 * 2),
        (
            {**GDN, "mamba_ssm_dtype": "float32"},
            "LLLFLLLF", 8192 * 4 * 2 + 32 * 128 * 128 * 4, 8192 * 3 * 2 + 32 * 128 * 128 * 4,
        ),
        (
            {"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*ME-*", **MAMBA2, "n_routed_experts": 8,
             "num_experts_per_tok": 2, "moe_intermediate_size": 256},
            "L-LFL--F", 4096 * 4 * 2 + 32 * 64 * 128 * 4, 4096 * 3 * 2 + 32 * 64 * 128 * 4,
        ),
        (
            {"model_type": "jamba", "attn_layer_period": 4, "attn_layer_offset": 2, "mamba_d_state": 16, "mamba_d_conv": 4,
             "mamba_expand": 2, "mamba_dt_rank": 64, "num_experts": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
            "LLFLLLFL", 2048 * 4 * 2 + 2048 * 16 * 4, 2048 * 3 * 2 + 2048 * 16 * 2,
        ),
        (
            {"model_type": "lfm2", "full_attn_idxs": [2, 5], "conv_L_cache": 3},
            "LLFLLFLL", 1024 * 3 * 2, 1024 * 2 * 2,
        ),
        (
            {"model_type": "falcon_h1", "mamba_n_heads": 16, "mamba_d_head": 64, "mamba_d_state": 64, "mamba_n_groups": 1,
             "mamba_d_conv": 4},
            "BBBBBBBB", (1024 + 128) * 4 * 2 + 16 * 64 * 64 * 4, (1024 + 128) * 3 * 2 + 16 * 64 * 64 * 2,
        ),
    ],
)  # fmt: skip
def test_hybrids_and_their_state(change: dict[str, Any], layers: str, hf_state: int, vllm_state: int) -> None:
    spec = build({**BASE, **change})
    assert kinds(spec) == layers
    count = layers.count("L") + layers.count("B")
    for retention, expected in (("transformers", hf_state), ("vllm", vllm_state)):
        assert (
            size_model(spec, context_tokens=64, retention=retention).state_bytes_per_sequence
            == count * expected
        )


def test_kimi_linear_lists_its_full_layers_from_one() -> None:
    linear = {"full_attn_layers": [4, 8], "num_heads": 16, "head_dim": 128, "short_conv_kernel_size": 4}
    spec = build({**MLA, "model_type": "kimi_linear", "linear_attn_config": linear})
    assert kinds(spec) == "LLLMLLLM"
    state = size_model(spec, context_tokens=64, retention="vllm").state_bytes_per_sequence
    assert state == 6 * (3 * 16 * 128 * 3 * 2 + 16 * 128 * 128 * 4)


def test_mla_keeps_latent_and_rope() -> None:
    assert per_token(build(MLA)) == 8 * (512 + 64) * 2


def test_sparse_mla_adds_index_keys_where_the_layer_owns_an_indexer() -> None:
    sparse = {**MLA, "index_head_dim": 128, "index_n_heads": 32, "index_topk": 2048}
    assert per_token(build(sparse)) == 8 * (1152 + 256)
    assert per_token(build(sparse), "vllm") == 8 * (1152 + 132)
    shared = {**sparse, "indexer_types": ["full", "shared", "shared", "shared"] * 2}
    assert per_token(build(shared), "vllm") == 8 * 1152 + 2 * 132
    periodic = {**sparse, "index_topk_freq": 4, "index_skip_topk_offset": 3}
    assert per_token(build(periodic), "vllm") == 8 * 1152 + 4 * 132


def test_an_engine_without_a_latent_cache_keeps_every_head() -> None:
    spec = build({**MLA, "model_type": "minicpm3", "n_routed_experts": None})
    assert per_token(spec, "vllm") == 8 * 2 * 16 * (128 + 64) * 2
    assert per_token(spec) == 8 * (512 + 64) * 2


def test_experts_come_where_the_configuration_says() -> None:
    def moe(config: dict[str, Any]) -> str:
        return "".join("e" if block.mlp.kind == "moe" else "d" for block in build(config).layers())

    assert moe(MLA) == "deeeeeee"
    qwen = {
        **BASE,
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
    }
    assert moe({**qwen, "decoder_sparse_step": 2, "mlp_only_layers": [3]}) == "dedddede"
    assert moe({**qwen, "mlp_layer_types": ["dense"] * 2 + ["sparse"] * 6}) == "ddeeeeee"


def test_architecture_search_blocks_may_have_no_attention() -> None:
    keep = {"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 2.0}}
    drop = {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}}
    linear = {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}}
    spec = build({**BASE, "model_type": "nemotron-nas", "block_configs": [keep, drop, linear, keep] * 2})
    assert kinds(spec) == "F--FF--F"


def test_encoder_decoder_models_keep_cross_attention_once() -> None:
    whisper = {
        "model_type": "whisper", "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6,
        "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "vocab_size": 51865,
        "max_source_positions": 1500, "max_target_positions": 448, "is_encoder_decoder": True,
    }  # fmt: skip
    report = size_model(build(whisper), context_tokens=448, retention="transformers")
    assert report.kv_bytes_per_token == 6144
    assert report.encoder_bytes_per_sequence == 9_216_000
    assert report.kv_bytes_per_sequence == 448 * 6144 + 9_216_000


@pytest.mark.parametrize(
    ("quantization", "expected", "router"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block128", "bf16"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4_group64", "bf16"),
        ({"quant_method": "gptq", "bits": 8}, "int8", "bf16"),
        ({"quant_method": "mxfp4"}, "mxfp4", "bf16"),
        ({"quant_algo": "NVFP4", "quant_method": "modelopt"}, "nvfp4", "bf16"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}}},
            "fp8", "bf16",
        ),
    ],
)  # fmt: skip
def test_weight_quantization(quantization: dict[str, Any], expected: str, router: str) -> None:
    spec = build({**MLA, "quantization_config": quantization})
    assert spec.weights.format == expected
    assert spec.weights.overrides["router"] == router


def test_modules_left_alone_keep_their_dtype() -> None:
    quantization = {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "ignore": ["lm_head", *(f"model.layers.{layer}.self_attn*" for layer in range(8))],
        "kv_cache_scheme": {"type": "float", "num_bits": 8, "dynamic": False},
    }
    imported = import_config({**MLA, "quantization_config": quantization}, "x", name="x")
    assert imported.model.weights.overrides["attention"] == "bf16"
    assert "experts" not in imported.model.weights.overrides
    assert imported.model.kv_format == "fp8_e4m3"
    assert any("fp8_e4m3" in message for message in imported.warnings)


@pytest.mark.parametrize(
    ("config", "field", "complaint"),
    [
        ({**BASE, "num_hidden_layers": 0}, "num_hidden_layers", "at least one layer"),
        ({**BASE, "num_hidden_layers": -3}, "num_hidden_layers", "not a possible value"),
        ({**BASE, "num_hidden_layers": "eight"}, "num_hidden_layers", "whole number"),
        ({**BASE, "num_hidden_layers": 10**9}, "num_hidden_layers", "more than any model"),
        ({**BASE, "num_key_value_heads": 3}, "num_key_value_heads", "not a multiple"),
        ({**BASE, "hidden_size": 1000}, "hidden_size", "not a multiple of 16 heads"),
        ({**BASE, "hidden_size": True}, "hidden_size", "whole number"),
        (without({**BASE, "model_type": "chatglm"}, "hidden_size"), "hidden_size", "missing"),
        ({**BASE, "layer_types": ["full_attention"] * 3}, "layer_types", "contradict"),
        ({**BASE, "layer_types": ["quantum_attention"] * 8}, "layer_types", "quantum_attention"),
        ({**BASE, "layer_types": ["sliding_attention"] * 8}, "sliding_window", "missing"),
        ({**BASE, "num_kv_shared_layers": 8}, "num_kv_shared_layers", "none"),
        ({**BASE, "layer_types": ["linear_attention"] * 8}, "layer_types", "none that kvplan knows"),
        (without(MLA, "qk_nope_head_dim") | {"model_type": "deepseek_x"}, "qk_nope_head_dim", "missing"),
        (
            {**MLA, "layer_types": ["sliding_attention"] * 8, "sliding_window": 64},
            "layer_types",
            "not understood",
        ),
        ({**MLA, "compress_ratios": [7] * 8}, "compress_ratios", "compression ratio"),
    ],
)
def test_impossible_and_contradictory_fields_are_named(
    config: dict[str, Any], field: str, complaint: str
) -> None:
    with pytest.raises(SpecError, match=complaint) as caught:
        build(config)
    assert field in (caught.value.where or "")
    assert "config.json" in (caught.value.where or "")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({}, "empty object"),
        ({"model_type": "bert", "num_hidden_layers": 12, "hidden_size": 768}, "encoder"),
        ({"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}, "encoder"),
        ({"_class_name": "UNet2DConditionModel"}, "diffusers"),
        ({"peft_type": "LORA", "r": 8}, "adapter"),
        ({"weight_map": {}}, "index of weight files"),
        ({"name": "someone", "version": 3}, "not a transformer"),
    ],
)
def test_other_files_are_refused_by_what_they_are(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        build(config)


def test_an_unknown_architecture_is_refused_by_name_with_its_fields() -> None:
    config = {
        **BASE,
        "model_type": "novel",
        "architectures": ["NovelForCausalLM"],
        "kv_ring_blocks": 7,
        "latent_window": 3,
    }
    with pytest.raises(SpecError, match=r"NovelForCausalLM.*kv_ring_blocks, latent_window"):
        build(config)


def test_an_unknown_architecture_is_never_assumed_to_be_mha() -> None:
    config = without(
        {**BASE, "model_type": "novel", "architectures": ["NovelForCausalLM"]}, "num_key_value_heads"
    )
    with pytest.raises(SpecError, match="NovelForCausalLM"):
        build(config)


def test_an_unknown_architecture_whose_fields_say_it_all_is_read_with_a_warning() -> None:
    imported = import_config(
        {**BASE, "model_type": "novel", "architectures": ["NovelForCausalLM"]}, "x", name="x"
    )
    assert per_token(imported.model) == 8 * 2 * 4 * 64 * 2
    assert "NovelForCausalLM" in imported.warnings[0]


def test_untrusted_patterns_are_never_run_as_expressions() -> None:
    quantization = {"quant_method": "fp8", "ignore": ["re:(a+)+$" * 50, "re:.*lm_head"]}
    assert build({**BASE, "quantization_config": quantization}).weights.overrides["lm_head"] == "bf16"


def test_the_name_comes_from_the_path(tmp_path: Path) -> None:
    import json

    folder = tmp_path / "My_Model-7B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BASE))
    assert read_config(folder / "config.json").model.name == "my_model-7b"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("aaaa", [(4, "a")]),
        ("aababab", [(2, "a"), (2, "ba"), (1, "b")]),
        ("abbabbc", [(2, "abb"), (1, "c")]),
        ("abc", [(1, "abc")]),
    ],
)
def test_layouts_are_short_and_exact(names: str, expected: list[tuple[int, str]]) -> None:
    found = [(segment.repeat, "".join(segment.blocks)) for segment in segments(tuple(names))]
    assert "".join(row * repeat for repeat, row in found) == names
    assert len(found) <= len(expected)


WILD: dict[str, tuple[dict[str, Any], int]] = {
    # The ways real files write their shapes: experts in a nested section, lists per layer, two configurations.
    "dbrx": (
        {
            "model_type": "dbrx", "d_model": 6144, "n_layers": 40, "n_heads": 48, "vocab_size": 100352,
            "max_seq_len": 32768, "attn_config": {"kv_n_heads": 8},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
        },
        163_840,
    ),
    "hunyuan with cross-layer attention": (
        {**BASE, "model_type": "hunyuan", "use_cla": True, "cla_share_factor": 2, "moe_topk": [2] * 8, "num_experts": 4},
        4 * 2 * 4 * 64 * 2,
    ),
    "openelm": (
        {
            "model_type": "openelm", "model_dim": 1280, "num_transformer_layers": 4, "num_query_heads": [12, 12, 16, 20],
            "num_kv_heads": [3, 3, 4, 5], "head_dim": 64, "vocab_size": 32000, "max_context_length": 2048,
        },
        15 * 64 * 4,
    ),
    "step with heads of its own in window layers": (
        {
            **without(BASE, "num_key_value_heads"), "model_type": "step3p5", "num_attention_groups": 4, "head_dim": 64,
            "sliding_window": 512, "layer_types": ["full_attention", "sliding_attention"] * 5,
            "attention_other_setting": {"num_attention_heads": 24, "num_attention_groups": 8, "head_dim": 64},
        },
        4 * 2 * 4 * 64 * 2,
    ),
    "mimo v2": (
        {
            **BASE, "model_type": "mimo_v2_flash", "head_dim": 192, "v_head_dim": 128, "swa_num_key_value_heads": 8,
            "swa_head_dim": 192, "swa_v_head_dim": 128, "hybrid_layer_pattern": [0, 1, 1, 1, 0, 1, 1, 1],
            "sliding_window": 128,
        },
        2 * 4 * (192 + 128) * 2,
    ),
    "longcat": ({**without(MLA, "num_hidden_layers"), "model_type": "longcat_flash", "num_layers": 4}, 8 * 1152),
    "an omni model": (
        {"model_type": "qwen2_5_omni", "thinker_config": {"text_config": {**BASE, "model_type": "qwen2_5_omni_text"}}},
        8 * 2 * 4 * 64 * 2,
    ),
    "t5gemma": (
        {
            "model_type": "t5gemma", "is_encoder_decoder": True, "encoder": {**BASE, "head_dim": 64, "model_type": "t5_gemma_module"},
            "decoder": {**BASE, "head_dim": 64, "model_type": "t5_gemma_module", "layer_types": ["full_attention"] * 8},
        },
        8 * 2 * 4 * 64 * 2,
    ),
    "minimax-m3": (
        {
            **BASE, "model_type": "minimax_m3",
            "sparse_attention_config": {
                "sparse_attention_freq": [0] * 2 + [1] * 6, "sparse_num_index_heads": 4, "sparse_index_dim": 128,
            },
        },
        8 * 2 * 4 * 64 * 2 + 6 * 128 * 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WILD))
def test_shapes_as_real_files_write_them(name: str) -> None:
    config, expected = WILD[name]
    spec = build(config)
    assert per_token(spec) == expected
    if name == "t5gemma":
        assert spec.encoder is not None
        assert all(block.cross is not None for block in spec.layers())
    if name in ("dbrx", "longcat"):
        assert spec.layers()[0].mlp.kind == "moe"


def test_blocks_that_are_chosen_are_so_many_tokens() -> None:
    config, _ = WILD["minimax-m3"]
    chosen = {**config["sparse_attention_config"], "sparse_topk_blocks": 16, "sparse_block_size": 128}
    for given, topk in ((config, None), ({**config, "sparse_attention_config": chosen}, 2048)):
        attentions = [block.attention for block in build(given).layers()]
        assert [item.indexer and item.indexer.topk for item in attentions] == [None] * 2 + [topk] * 6


def test_an_unknown_architecture_is_refused_by_name_with_what_was_not_understood() -> None:
    config = {
        **without(BASE, "num_key_value_heads"),
        "model_type": "quantumformer",
        "architectures": ["QuantumForCausalLM"],
        "memory_slots": 7,
        "kv_twist": 3,
    }
    with pytest.raises(SpecError) as caught:
        build(config)
    text = str(caught.value)
    assert "'QuantumForCausalLM' is not understood" in text
    assert "kv_twist, memory_slots" in text
    with pytest.raises(SpecError, match="kv_twist, memory_slots"):
        build({**config, "num_key_value_heads": 4})


@pytest.mark.parametrize("value", ["many", float("nan"), float("inf"), [1], {}, -1])
@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({**BASE, "model_type": "mamba", "state_size": 16}, "time_step_rank"),
        ({**BASE, "model_type": "jamba", "mamba_d_state": 16}, "mamba_dt_rank"),
        ({**BASE, "model_type": "t5", "num_decoder_layers": 4, "d_kv": 64}, "num_layers"),
        ({**without(BASE, "intermediate_size"), "model_type": "hf_olmo"}, "mlp_ratio"),
    ],
)
def test_values_that_are_no_numbers_are_refused_by_name(config: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(SpecError, match=key):
        build({**config, key: value})


@pytest.mark.parametrize(
    ("model_type", "key"),
    [("t5", "num_decoder_layers"), ("whisper", "decoder_layers"), ("hrm_text", "num_layers_per_stack")],
)
@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_layers_beyond_any_model_are_refused_at_once(model_type: str, key: str, value: int) -> None:
    with pytest.raises(SpecError, match=key):
        build({**BASE, "model_type": model_type, key: value})


@pytest.mark.parametrize("value", [[[1, 2]], ["1"], [True], [None]])
def test_lists_of_layers_hold_numbers(value: list[Any]) -> None:
    with pytest.raises(SpecError, match="full_attn_layers"):
        build({**BASE, "model_type": "kimi_linear", "linear_attn_config": {"full_attn_layers": value}})


@pytest.mark.parametrize(
    ("change", "before"),
    [
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_parameters": {"rope_type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 4096}}, None),
        ({"rope_scaling": {"type": "yarn"}, "original_max_position_embeddings": 4096}, None),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 8192}, None),
        ({"rope_scaling": "longrope"}, None),
    ],
)  # fmt: skip
def test_what_long_rope_stretches(change: dict[str, Any], before: int | None) -> None:
    assert build({**BASE, **change}).unstretched_context == before


@pytest.mark.parametrize(
    ("scaling", "reach"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 32768),
        ({"type": "dynamic", "factor": 2.5}, 20480),
        ({"type": "dynamic", "factor": None, "alpha": 1000.0}, 8192),
        ({"rope_type": "default"}, 8192),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 1024}, 8192),
        ({"type": "longrope", "factor": 32.0}, 8192),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"full_attention": {"rope_type": "linear", "factor": 2.0}, "sliding_attention": {"rope_type": "default"}}, 16384),
    ],
)  # fmt: skip
def test_positions_that_engines_stretch(scaling: dict[str, Any], reach: int) -> None:
    own = {**BASE, "max_position_embeddings": 8192}
    for key in ("rope_scaling", "rope_parameters"):
        model = build({**own, key: scaling})
        assert (model.max_context, model.yarn_context) == (reach, None)


def test_gemma_3_says_its_stretched_length() -> None:
    own = {**BASE, "model_type": "gemma3_text", "max_position_embeddings": 8192}
    assert build({**own, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}).max_context == 8192


def test_yarn_added_to_a_file_that_stayed_as_it_was() -> None:
    added = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    model = build({**BASE, "max_position_embeddings": 40960, "rope_scaling": added})
    assert (model.max_context, model.yarn_context) == (40960, 131072)


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": "4"}, {"type": "linear", "factor": -1}, {"type": "dynamic", "factor": True},
        {"type": "linear", "factor": float("nan")}, {"type": "linear", "factor": 1e-9},
        {"type": "linear", "factor": 1e12}, {"type": "yarn", "original_max_position_embeddings": "x"},
        {"type": "yarn", "original_max_position_embeddings": 0},
    ],
)  # fmt: skip
def test_stretches_that_are_none(scaling: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="rope_scaling"):
        build({**BASE, "max_position_embeddings": 8192, "rope_scaling": scaling})


@pytest.mark.parametrize(("model_type", "layers"), [("qwen3_next", 1), ("llama", None)])
def test_drafting_layers_that_only_the_checkpoint_has(model_type: str, layers: int | None) -> None:
    model = build({**BASE, "model_type": model_type})
    assert (model.draft.layers if model.draft else None) == layers
    named = build({**BASE, "model_type": model_type, "num_nextn_predict_layers": 2})
    assert named.draft is not None
    assert named.draft.layers == 2


@pytest.mark.parametrize(
    ("changed", "kind", "mlp"),
    [
        ({"model_type": "step3p5"}, "sliding", "dense"),
        ({"model_type": "qwen3_moe"}, "full", "moe"),
        ({"model_type": "qwen3_moe", "layer_types": [*["sliding_attention"] * 3, "full_attention", "sliding_attention"]},
         "sliding", "moe"),
        ({"model_type": "qwen3_moe", "mtp_layer_types": ["sliding_attention"]}, "sliding", "moe"),
        ({"model_type": "qwen3_moe", "mlp_layer_types": ["dense", *["sparse"] * 3, "dense"]}, "full", "dense"),
    ],
)  # fmt: skip
def test_kinds_of_drafting_layers(changed: dict[str, Any], kind: str, mlp: str) -> None:
    model = build(
        {
            **BASE, "num_hidden_layers": 4, "num_nextn_predict_layers": 2, "sliding_window": 64,
            "layer_types": [*["sliding_attention"] * 3, "full_attention"], "num_experts": 8,
            "num_experts_per_tok": 2, "moe_intermediate_size": 64, "mlp_only_layers": [0], **changed,
        }
    )  # fmt: skip
    assert model.draft is not None
    assert (model.draft.block.attention.kind, model.draft.block.mlp.kind) == (kind, mlp)  # type: ignore[union-attr]
