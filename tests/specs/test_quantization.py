"""Quantization configurations: which format each part of a model is stored in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.capacity import fit_model
from kvplan.sizing.size import size_model
from kvplan.sizing.weight_formats import weight_format
from kvplan.sizing.weights import stage_weights
from kvplan.specs.catalog import load_gpu
from kvplan.specs.huggingface import import_config, read_config
from kvplan.specs.huggingface.modules import matches
from kvplan.specs.model import ModelSpec

MOE: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "vocab_size": 32000,
    "intermediate_size": 4096,
    "kv_lora_rank": 512,
    "q_lora_rank": 256,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "first_k_dense_replace": 2,
    "tie_word_embeddings": False,
}
HYBRID: dict[str, Any] = {
    "model_type": "qwen3_5_moe_text",
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 32000,
    "full_attention_interval": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}
PARTS = ("experts", "dense_mlp", "shared_experts", "attention", "state", "lm_head", "router", "draft")


def spec_of(config: dict[str, Any], quantization: dict[str, Any]) -> ModelSpec:
    return import_config({**config, "quantization_config": quantization}, "config.json", name="test").model


def stored(spec: ModelSpec, *parts: str) -> list[str]:
    return [spec.weights.overrides.get(part, spec.weights.format) for part in parts]  # type: ignore[call-overload]


def quark(weight: Any, **more: Any) -> dict[str, Any]:
    return {
        "quant_method": "quark",
        "global_quant_config": {"weight": weight},
        "exclude": ["lm_head"],
        **more,
    }


def floats(bits: int, group: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "weights": {"num_bits": bits, "type": "float", "group_size": group, **more},
        "targets": ["Linear"],
    }


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block128"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8_channel"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4_group32"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4_channel"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8_group128"),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "int4_group64"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128}, "int4_group128"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "nf4_double"),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}}, "int4_group64"),
        ({"quant_method": "torchao", "quant_type": "float8_dynamic_activation_float8_weight"}, "fp8_channel"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, "mxfp8"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": floats(8, strategy="channel")}}, "fp8_channel"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": floats(8, strategy="block")}}, "fp8_block128"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": floats(4, 16)}}, "nvfp4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": floats(4, 32)}}, "mxfp4"),
        ({"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}, "nvfp4"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 32, "data_type": "mx_fp4"}, "mxfp4"),
        ({"quant_method": "auto-round", "bits": 8, "group_size": 32, "data_type": "mx_fp"}, "mxfp8"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 16, "data_type": "nv_fp"}, "nvfp4"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "data_type": "int"}, "int4_group128"),
        ({"quant_method": "gpt_oss_mxfp4"}, "mxfp4"),
        ({"quant_method": "mxfp8"}, "mxfp8"),
        ({"quant_method": "w8a8_int8"}, "int8"),
        ({"quant_method": "w8a8_fp8"}, "fp8_channel"),
        ({"quant_method": "blockwise_int8", "weight_block_size": [128, 128]}, "int8_block128"),
        ({"quant_method": "fp_quant", "forward_dtype": "nvfp4", "hadamard_group_size": 16}, "nvfp4"),
        ({"quant_method": "fp_quant", "forward_dtype": "mxfp4"}, "mxfp4"),
        ({"quant_method": "auto_gptq", "bits": 4, "group_size": 64}, "int4_group64"),
        ({"quant_method": "auto-round", "bits": 2, "group_size": 64}, "int2_group64"),
        ({"quant_method": "gptq", "bits": 3, "group_size": -1}, "int3_channel"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 32}, "int8_group32"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_version": 2,
          "_data": {"group_size": 32}}}}, "int4_group32"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8DynamicActivationIntxWeightConfig",
          "_data": {"weight_dtype": {"_type": "torch.dtype", "_data": "int4"}, "weight_granularity":
                    {"_type": "PerGroup", "_data": {"group_size": 64}}}}}}, "int4_group64"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only", "quant_type_kwargs": {"group_size": 32}},
         "int4_group32"),
        (quark({"dtype": "fp8_e4m3", "qscheme": "per_tensor"}), "fp8"),
        (quark({"dtype": "fp8_e4m3", "qscheme": "per_channel"}), "fp8_channel"),
        (quark({"dtype": "fp8_e4m3", "qscheme": "per_block"}), "fp8_block128"),
        (quark({"dtype": "fp4", "qscheme": "per_group", "group_size": 32}), "mxfp4"),
        (quark({"dtype": "uint4", "qscheme": "per_group", "group_size": 128}), "int4_group128"),
        (quark({"dtype": "int8", "qscheme": "per_channel"}), "int8"),
        (quark([{"dtype": "fp8_e4m3", "qscheme": "per_tensor"}, {"dtype": "int4", "qscheme": "per_channel"}]),
         "int4_channel"),
        (quark([{"dtype": "fp4", "group_size": 16}, {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}]), "nvfp4"),
    ],
)  # fmt: skip
def test_the_format_of_the_experts(quantization: dict[str, Any], expected: str) -> None:
    spec = spec_of(MOE, quantization)
    assert stored(spec, "experts", "router") == [expected, "bf16"]
    assert stored(spec, "embeddings") == ["bf16"]
    assert weight_format(expected).name == expected


def test_experts_of_w4afp8_have_fewer_bits_than_the_rest() -> None:
    spec = spec_of(MOE, {"quant_method": "w4afp8", "activation_scheme": "dynamic"})
    assert stored(spec, *PARTS[:4]) == ["int4_group128", *["fp8_block128"] * 3]
    assert stored(spec, "lm_head", "router", "embeddings") == ["bf16"] * 3


def test_modules_of_their_own_bits_in_auto_round() -> None:
    own = {
        r".*self_attn.*": {"bits": 8, "group_size": -1},
        r".*shared_experts.*": {"bits": 16, "data_type": "float"},
        **{f"model.layers.{layer}.mlp.{name}_proj": {"bits": 4} for layer in (0, 1) for name in ("gate", "up", "down")},
    }  # fmt: skip
    spec = spec_of(MOE, {"quant_method": "auto-round", "bits": 2, "group_size": 64, "extra_config": own})
    assert stored(spec, *PARTS[:4]) == ["int2_group64", "int4_group64", "bf16", "int8"]


def test_modules_of_their_own_bits_in_gptq() -> None:
    own = {
        r"+:.*self_attn.*": {"bits": 8},
        r".*shared_experts.*": {"group_size": 32},
        r"-:.*mlp\.up_proj": {},
    }
    spec = spec_of(MOE, {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": own})
    assert stored(spec, *PARTS[:4]) == ["int4_group128", "bf16", "int4_group32", "int8_group128"]


@pytest.mark.parametrize("bits", [1, 9, 3.5, "4", True])
def test_bits_nobody_stores_are_said(bits: Any) -> None:
    config = {**MOE, "quantization_config": {"quant_method": "gptq", "bits": bits, "group_size": 128}}
    found = import_config(config, "config.json", name="test")
    assert stored(found.model, "experts") == ["bf16"]
    assert any("bit weights are not known" in words for words in found.warnings)


def test_lists_name_layers_and_only_those_count() -> None:
    ignored = ["lm_head", "model.layers.0*", "model.layers.1.*"]
    ignored += [f"model.layers.{layer}.self_attn*" for layer in range(2, 12)]
    ignored += [f"model.layers.{layer}.mlp.shared_experts*" for layer in range(2, 12)]
    spec = spec_of(MOE, {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ignored})
    assert stored(spec, *PARTS[:4]) == ["nvfp4", "bf16", "bf16", "bf16"]


def test_expressions_name_kinds_of_modules() -> None:
    quantization = {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "g": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}, "targets": ["Linear"]}
        },
        "ignore": [
            "lm_head",
            "re:.*self_attn.*",
            "re:.*shared_experts.*",
            r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
        ],
    }
    assert stored(spec_of(MOE, quantization), *PARTS[:4]) == ["int4_group32", "bf16", "bf16", "bf16"]


def test_groups_with_targets_of_their_own() -> None:
    attention = [f"model.layers.{i}.self_attn.{p}_proj" for i in (3, 7) for p in "qkvo"]
    state = [
        f"model.layers.{i}.linear_attn.{p}" for i in (0, 1, 2, 4, 5, 6) for p in ("in_proj_qkv", "out_proj")
    ]
    experts = [f"model.layers.{i}.mlp.experts" for i in range(8)]
    groups = {
        "group_0": {"weights": {"num_bits": 8, "type": "float"}, "targets": attention + state},
        "group_1": {
            "weights": {"num_bits": 4, "type": "float", "group_size": 16},
            "targets": ["lm_head", *experts],
        },
    }
    spec = spec_of(HYBRID, {"quant_method": "modelopt", "config_groups": groups, "ignore": ["mtp*"]})
    assert stored(spec, "experts", "attention", "state", "lm_head", "shared_experts", "router") == [
        "nvfp4", "fp8", "fp8", "nvfp4", "bf16", "bf16",
    ]  # fmt: skip


def test_a_table_of_layers_says_it_all() -> None:
    table = {f"model.layers.{i}.mlp.experts": {"quant_algo": "W4A16_NVFP4"} for i in range(8)}
    table |= {f"model.layers.{i}.self_attn.o_proj": {"quant_algo": "FP8"} for i in (3, 7)}
    spec = spec_of(HYBRID, {"quant_algo": "MIXED_PRECISION", "quantized_layers": table})
    assert stored(spec, "experts", "attention", "state", "shared_experts") == ["nvfp4", "fp8", "bf16", "bf16"]


def test_experts_in_a_format_of_their_own() -> None:
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128], "moe_quant_algo": "NVFP4",
                    "quant_algo": "MIXED_PRECISION", "ignore": ["*.attn.*", "mtp.*"]}  # fmt: skip
    spec = spec_of(MOE, quantization)
    assert stored(spec, "experts", "attention", "shared_experts", "lm_head") == [
        "nvfp4", "fp8_block128", "fp8_block128", "bf16",
    ]  # fmt: skip


def test_a_part_that_differs_by_layer_is_sized_as_most_of_it_and_said() -> None:
    ignored = [f"model.layers.{layer}.self_attn*" for layer in range(4)]
    config = {**MOE, "quantization_config": {"quant_algo": "FP8", "ignore": ignored}}
    imported = import_config(config, "config.json", name="test")
    assert stored(imported.model, "attention") == ["fp8"]
    assert any("attention is fp8 in 8 of 12 layers" in text for text in imported.warnings)


def test_a_file_beside_the_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MOE))
    plain = read_config(tmp_path / "config.json").model
    assert plain.weights.format == "bf16"
    quantization = {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["*self_attn*", "lm_head"],
    }
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps({"producer": {"name": "modelopt"}, "quantization": quantization})
    )
    spec = read_config(tmp_path / "config.json").model
    assert stored(spec, "experts", "attention") == ["nvfp4", "bf16"]
    assert spec.kv_format == "fp8_e4m3"
    assert stage_weights(spec).stored_bytes < 0.7 * stage_weights(plain).stored_bytes


@pytest.mark.parametrize(
    ("name", "experts", "attention"),
    [
        ("deepseek-v3.2-nvfp4", "nvfp4", "bf16"),
        ("nemotron-3-super-fp8", "fp8", "fp8"),
        ("something-awq", "int4_group128", "int4_group128"),
        ("fp80-lookalike", "bf16", "bf16"),
    ],
)
def test_a_name_that_promises_a_format_is_believed_with_a_warning(
    name: str, experts: str, attention: str
) -> None:
    imported = import_config(MOE, "config.json", name=name)
    assert stored(imported.model, "experts", "attention") == [experts, attention]
    assert bool(imported.warnings) == (experts != "bf16")


def test_quark_names_modules_that_differ_and_what_it_leaves_alone() -> None:
    table = {"*self_attn*": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}}
    scheme = quark({"dtype": "fp4", "qscheme": "per_group", "group_size": 32}, layer_quant_config=table)
    found = stored(spec_of(MOE, scheme), "experts", "dense_mlp", "attention", "lm_head", "router")
    assert found == ["mxfp4", "mxfp4", "fp8", "bf16", "bf16"]


def test_auto_round_in_mxfp4_is_of_every_linear_layer() -> None:
    scheme = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "data_type": "mx_fp"}
    assert stored(spec_of(MOE, scheme), "experts", "attention", "lm_head") == ["mxfp4", "mxfp4", "bf16"]


def test_a_quark_number_that_is_not_known_is_said() -> None:
    found = import_config(
        {**MOE, "quantization_config": quark({"dtype": "fp6_e3m2"})}, "config.json", name="test"
    )
    assert any("quark fp6_e3m2" in warning for warning in found.warnings)


def test_heads_take_the_format_that_compressed_tensors_names() -> None:
    heads = {key: value for key, value in MOE.items() if "lora" not in key and "qk_" not in key}
    cache = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}
    scheme = {"quant_method": "compressed-tensors", "kv_cache_scheme": cache}
    model = spec_of({**heads, "model_type": "llama", "num_key_value_heads": 4}, scheme)
    assert model.kv_format == "fp8_e4m3"


def test_compressed_tensors_may_be_of_the_cache_alone() -> None:
    heads = {key: value for key, value in MOE.items() if "lora" not in key and "qk_" not in key}
    scheme = {
        "quant_method": "compressed-tensors", "format": "dense", "config_groups": {},
        "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True},
    }  # fmt: skip
    imported = import_config(
        {**heads, "model_type": "llama", "num_key_value_heads": 4, "quantization_config": scheme},
        "x",
        name="x",
    )
    assert (imported.model.weights.format, imported.model.kv_format) == ("bf16", "fp8_e4m3")
    assert not any("weight quantization" in warning for warning in imported.warnings)


def test_moe_wna16_is_gptq_or_awq_by_another_name() -> None:
    scheme = {"quant_method": "moe_wna16", "bits": 4, "group_size": 64, "linear_quant_method": "gptq"}
    assert stored(spec_of(MOE, scheme), "experts", "attention") == ["int4_group64", "int4_group64"]


def test_a_cache_that_quark_quantizes_is_said_to_need_an_option() -> None:
    fp8 = {"output_tensors": {"dtype": "fp8_e4m3"}}
    scheme = quark({"dtype": "fp8_e4m3"}, kv_cache_quant_config={"*k_proj": fp8, "*v_proj": fp8})
    imported = import_config({**MOE, "quantization_config": scheme}, "x", name="x")
    assert imported.model.kv_format is None
    assert any("engines take no KV format from files of quark" in warning for warning in imported.warnings)


def test_an_unknown_scheme_is_said() -> None:
    imported = import_config({**MOE, "quantization_config": {"quant_method": "exl9"}}, "x", name="x")
    assert imported.model.weights.format == "bf16"
    assert imported.warnings == ("weight quantization 'exl9' is not known; sized as stored in 16 bits",)


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        ("lm_head", "lm_head", True),
        ("model.layers.1*", "model.layers.1.mlp.up_proj", True),
        ("re:.*\\.layers\\.\\d+\\.self_attn", "model.layers.11.self_attn.q_proj", True),
        ("re:^lm_head$", "model.lm_head", False),
        ("gate", "model.layers.1.mlp.gate", True),
        ("gate", "model.layers.1.mlp.gate_proj", False),
        ("re:(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", False),  # would run for ever as an expression
        ("re:.*.*.*.*.*.*x", "aaaa", False),
        ("re:(", "lm_head", False),
    ],
)
def test_patterns(pattern: str, name: str, meant: bool) -> None:
    assert matches(pattern, name) is meant


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_checkpoints_in_fp32_are_loaded_in_16_bits(key: str) -> None:
    imported = import_config({**MOE, key: "float32"}, "config.json", name="test")
    assert stored(imported.model, "experts", "norms") == ["bf16", "bf16"]
    assert imported.model.dtype == "bf16"
    (warning,) = [text for text in imported.warnings if "fp32" in text]
    assert "--weights-dtype fp32" in warning
    assert not import_config({**MOE, key: "float16"}, "config.json", name="test").warnings


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, "fp8_e4m3"),
        ({"quant_method": "fp8", "kv_cache_scheme": "fp8"}, None),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"num_bits": 8, "type": "int"}}, None),
    ],
)
def test_a_cache_is_sized_in_the_format_that_engines_read_from_the_file(
    quantization: dict[str, Any], expected: str | None
) -> None:
    imported = import_config({**MOE, "quantization_config": quantization}, "config.json", name="test")
    assert imported.model.kv_format == expected
    assert any("KV" in text for text in imported.warnings)
    report = size_model(imported.model, context_tokens=64)
    gpu = load_gpu("b200")
    assert fit_model(imported.model, gpu).kv_format.name == report.request.form.name == (expected or "bf16")
    plain = size_model(imported.model, context_tokens=64, retention="transformers")
    assert plain.request.form.name == "bf16"  # transformers keeps K and V as they are computed


@pytest.mark.parametrize("raw", ["fp8", ["fp8"], 8, True])
def test_a_quantization_that_is_no_object_is_refused(raw: Any) -> None:
    with pytest.raises(SpecError, match="does not say how weights are stored") as caught:
        import_config({**MOE, "quantization_config": raw}, "config.json", name="x")
    assert caught.value.where == "config.json  quantization_config"


@pytest.mark.parametrize("raw", [None, {}, False])
def test_a_quantization_of_nothing_is_none(raw: Any) -> None:
    assert (
        import_config({**MOE, "quantization_config": raw}, "config.json", name="x").model.weights.format
        == "bf16"
    )


@pytest.mark.parametrize("name", ["bfloat17", "float8_e4m3fn", 5])
def test_a_dtype_that_is_not_known_is_said(name: Any) -> None:
    found = import_config({**MOE, "torch_dtype": name}, "config.json", name="x")
    assert found.model.weights.format == "bf16"
    assert any(f"dtype '{name}' is not known" in warning for warning in found.warnings)
    known = import_config({**MOE, "torch_dtype": "torch.half"}, "config.json", name="x")
    assert known.model.weights.format == "fp16"
    assert not any("dtype" in warning for warning in known.warnings)


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}, "fp8"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": floats(4, 16)}}, "nvfp4"),
        ({"qformat_weight": "fp6"}, "bf16"),
        (None, "bf16"),
    ],
)
def test_params_json_says_it_under_a_name_of_its_own(quantization: Any, expected: str) -> None:
    params = {"dim": 512, "n_layers": 2, "head_dim": 64, "hidden_dim": 1024, "n_heads": 8, "n_kv_heads": 2,
              "vocab_size": 1000, "norm_eps": 1e-5, "quantization": quantization}  # fmt: skip
    found = import_config(params, "params.json", name="mistral")
    assert stored(found.model, "dense_mlp", "attention", "embeddings") == [expected, expected, "bf16"]
    said = any("is not known" in words for words in found.warnings)
    assert said == (quantization == {"qformat_weight": "fp6"})


def test_bits_and_groups_without_a_method_are_those_of_mlx() -> None:
    assert stored(spec_of(MOE, {"bits": 4, "group_size": 64}), "experts") == ["int4_group64"]


LISTED = {
    "quant_method": "modelopt",
    "quant_algo": "MIXED_PRECISION",
    "quantized_layers": {
        "lm_head": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
        **{
            f"model.layers.{layer}.mlp.experts.{expert}.up_proj": {"quant_algo": "NVFP4"}
            for layer in range(64)
            for expert in range(4)
        },
    },
}


@pytest.mark.parametrize(
    ("quantization", "form"),
    [
        (LISTED, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": []}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}, "bf16"),
        ({"quant_method": "mxfp8"}, "mxfp8"),
        ({"quant_method": "mxfp8", "modules_to_not_convert": ["lm_head"]}, "bf16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True}, "int4_group128"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": False}, "bf16"),
        ({"quant_method": "fp8"}, "bf16"),
    ],
)
def test_the_bill_has_the_output_head_in_its_own_format(quantization: dict[str, Any], form: str) -> None:
    """Compared with what vLLM 0.33's classes allocate for such a head."""
    spec = spec_of({**MOE, "tie_word_embeddings": False}, quantization)
    rows = -(-spec.vocab_size // 64) * 64
    bill = stage_weights(spec).by_component["lm_head"]
    assert bill == weight_format(form).matrix(rows, spec.hidden_size)
