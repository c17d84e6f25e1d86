"""Configurations that say little: what they leave out is what their class does, and nothing is guessed.

Each row is a ``model_type``, the only fields of its file, a context, and the bytes of KV and state that
transformers 5.23 itself cached for a model built from it (in bfloat16, batch 1).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.scenario.load import load_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config

CACHED: list[tuple[str, dict[str, Any], int, int, int]] = [
    (
        "gemma4_unified_text",
        {
            "num_hidden_layers": 11,
            "num_key_value_heads": 4,
            "head_dim": 96,
            "num_kv_shared_layers": 3,
            "attention_k_eq_v": True,
        },
        40,
        757760,
        0,
    ),
    ("hrm_text", {"num_hidden_layers": 12}, 70, 41287680, 0),
    (
        "hy_v4",
        {"num_hidden_layers": 9, "num_key_value_heads": 4, "kv_lora_rank": 256, "qk_rope_head_dim": 32},
        70,
        416640,
        0,
    ),
    ("laguna", {"num_hidden_layers": 5, "num_key_value_heads": 3, "head_dim": 32}, 40, 76800, 0),
    (
        "llama4_text",
        {"num_hidden_layers": 11, "num_key_value_heads": 10, "attention_chunk_size": 16},
        40,
        1100800,
        0,
    ),
    (
        "mellum",
        {
            "num_hidden_layers": 12,
            "num_key_value_heads": 4,
            "num_local_experts": 8,
            "layer_types": [
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
            ],
        },
        70,
        1720320,
        0,
    ),
    (
        "qwen3_next",
        {
            "num_hidden_layers": 13,
            "num_key_value_heads": 2,
            "linear_conv_kernel_dim": 4,
            "linear_num_key_heads": 8,
            "linear_num_value_heads": 32,
            "linear_value_head_dim": 32,
            "decoder_sparse_step": 2,
            "layer_types": [
                "linear_attention",
                "linear_attention",
                "full_attention",
                "full_attention",
                "linear_attention",
                "linear_attention",
                "linear_attention",
                "full_attention",
                "linear_attention",
                "linear_attention",
                "linear_attention",
                "linear_attention",
                "linear_attention",
            ],
        },
        70,
        430080,
        5488640,
    ),
    ("beam", {"num_hidden_layers": 10, "num_key_value_heads": 16, "head_dim": 96}, 70, 4300800, 0),
    (
        "deepseek_v4",
        {
            "num_hidden_layers": 6,
            "num_key_value_heads": 64,
            "sliding_window": 24,
            "qk_rope_head_dim": 32,
            "index_head_dim": 64,
            "layer_types": [
                "compressed_sparse_attention",
                "heavily_compressed_attention",
                "heavily_compressed_attention",
                "heavily_compressed_attention",
                "heavily_compressed_attention",
                "compressed_sparse_attention",
            ],
        },
        40,
        510464,
        0,
    ),
    (
        "deepseek_v4",
        {
            "num_hidden_layers": 5,
            "sliding_window": 8,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "q_lora_rank": 96,
        },
        24,
        65280,
        0,
    ),
    (
        "smollm3",
        {"num_hidden_layers": 3, "sliding_window": 16, "use_sliding_window": True, "num_key_value_heads": 16},
        24,
        589824,
        0,
    ),
    ("qwen2_moe", {"num_hidden_layers": 7, "sliding_window": 16, "use_sliding_window": True}, 24, 1081344, 0),
    (
        "flint",
        {"num_hidden_layers": 10, "num_key_value_heads": 16, "sliding_window": 24, "decoder_sparse_step": 2},
        70,
        3424256,
        0,
    ),
    (
        "inkling_text",
        {"num_hidden_layers": 5, "num_key_value_heads": 32, "swa_head_dim": 32},
        40,
        409600,
        1064960,
    ),
    (
        "kimi_linear",
        {
            "num_hidden_layers": 13,
            "num_key_value_heads": 32,
            "kv_lora_rank": 128,
            "qk_nope_head_dim": 64,
            "layer_types": [
                "full_attention",
                "full_attention",
                "linear_attention",
                "linear_attention",
                "linear_attention",
                "full_attention",
                "full_attention",
                "linear_attention",
                "linear_attention",
                "linear_attention",
                "linear_attention",
                "linear_attention",
                "full_attention",
            ],
        },
        70,
        134400,
        17563648,
    ),
    (
        "smollm3",
        {
            "num_hidden_layers": 12,
            "num_key_value_heads": 1,
            "sliding_window": 16,
            "use_sliding_window": False,
            "no_rope_layer_interval": 4,
            "layer_types": [
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
            ],
        },
        40,
        245760,
        0,
    ),
    (
        "gpt_oss",
        {
            "num_hidden_layers": 13,
            "num_key_value_heads": 1,
            "head_dim": 160,
            "sliding_window": 16,
            "num_local_experts": 8,
        },
        70,
        336000,
        0,
    ),
    (
        "lfm2",
        {
            "num_hidden_layers": 11,
            "num_key_value_heads": 1,
            "layer_types": [
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
            ],
        },
        70,
        246400,
        0,
    ),
    (
        "bailing_hybrid",
        {"num_hidden_layers": 10, "head_dim": 64, "v_head_dim": 128, "linear_conv_kernel_dim": 3},
        70,
        80640,
        5050368,
    ),
    (
        "exaone4",
        {"num_hidden_layers": 7, "num_key_value_heads": 4, "sliding_window": 16, "sliding_window_pattern": 4},
        70,
        327680,
        0,
    ),
    (
        "gemma3n_text",
        {
            "num_hidden_layers": 8,
            "head_dim": 64,
            "sliding_window": 24,
            "num_kv_shared_layers": 2,
            "layer_types": [
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
            ],
        },
        40,
        79360,
        0,
    ),
    (
        "jamba",
        {
            "num_hidden_layers": 7,
            "num_key_value_heads": 16,
            "mamba_expand": 2,
            "attn_layer_period": 4,
            "attn_layer_offset": 0,
        },
        40,
        655360,
        2949120,
    ),
    (
        "olmo_hybrid",
        {
            "num_hidden_layers": 8,
            "num_key_value_heads": 3,
            "linear_conv_kernel_dim": 4,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 32,
            "linear_value_head_dim": 32,
        },
        40,
        122880,
        18020352,
    ),
    (
        "qwen2",
        {
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "sliding_window": 24,
            "use_sliding_window": False,
            "max_window_layers": 2,
        },
        70,
        286720,
        0,
    ),
    (
        "cohere2",
        {
            "num_hidden_layers": 9,
            "num_key_value_heads": 1,
            "head_dim": 128,
            "sliding_window": 16,
            "layer_types": [
                "full_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
            ],
        },
        40,
        94720,
        0,
    ),
    (
        "glm_moe_dsa",
        {
            "num_hidden_layers": 6,
            "head_dim": 128,
            "v_head_dim": 128,
            "kv_lora_rank": 256,
            "index_head_dim": 64,
            "first_k_dense_replace": 1,
        },
        70,
        322560,
        0,
    ),
    (
        "minimax_m3_vl_text",
        {
            "num_hidden_layers": 7,
            "head_dim": 96,
            "index_head_dim": 128,
            "layer_types": [
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
                "full_attention",
            ],
        },
        70,
        752640,
        0,
    ),
    (
        "falcon_h1",
        {
            "num_hidden_layers": 12,
            "num_key_value_heads": 2,
            "mamba_d_state": 32,
            "mamba_d_conv": 5,
            "mamba_expand": 2,
        },
        70,
        860160,
        1703424,
    ),
]


@pytest.mark.parametrize(
    ("model_type", "fields", "tokens", "kv", "state"), CACHED, ids=[row[0] for row in CACHED]
)
def test_what_a_file_leaves_out(
    model_type: str, fields: dict[str, Any], tokens: int, kv: int, state: int
) -> None:
    spec = import_config({**fields, "model_type": model_type}, "config.json", name="test").model
    report = size_model(spec, context_tokens=tokens, kv="bf16", retention="transformers")
    assert (report.kv_bytes_per_sequence, report.state_bytes_per_sequence) == (kv, state)


LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "intermediate_size": 1024,
}


def warnings_about(**changes: Any) -> tuple[str, ...]:
    data = {key: value for key, value in {**LLAMA, **changes}.items() if value is not ...}
    return import_config(data, "config.json", name="it").warnings


def test_a_whole_file_of_a_known_class_needs_no_warning() -> None:
    assert warnings_about() == ()


def test_a_layer_count_from_the_class_is_said() -> None:
    (said,) = warnings_about(num_hidden_layers=...)
    assert said == "not in the file, so by the defaults of llama: num_hidden_layers 32"


def test_widths_from_the_class_are_said() -> None:
    """They make up the weights: without these two, 8 billion parameters are read as 6.6."""
    (said,) = warnings_about(vocab_size=..., intermediate_size=...)
    assert said == "not in the file, so by the defaults of llama: vocab_size 32000, intermediate_size 11008"


def test_fields_that_a_known_class_does_not_have_are_said() -> None:
    (said,) = warnings_about(cross_layer_kv_share=2, local_attention_window=512, hidden_dropout_prob=0.1)
    assert "llama is not known to have cross_layer_kv_share, local_attention_window" in said


HYBRID = {
    **LLAMA,
    "model_type": "nemotron_h",
    "architectures": ["NemotronHForCausalLM"],
    "hybrid_override_pattern": "M-M*",
    "mamba_num_heads": 8,
    "mamba_head_dim": 64,
    "ssm_state_size": 16,
    "conv_kernel": 4,
    "n_groups": 1,
}


@pytest.mark.parametrize("pattern", [..., None, "", 3, ["M", "-", "M", "*"], {"0": "M"}])
def test_a_state_without_saying_where_is_refused(pattern: object) -> None:
    """Sized as attention throughout it would be several times too large."""
    whole = import_config(HYBRID, "config.json", name="it").model
    assert [block.attention is None for block in whole.layers()] == [True, True, True, False]
    data = {**HYBRID, "hybrid_override_pattern": pattern}
    if pattern is ...:
        del data["hybrid_override_pattern"]
    with pytest.raises(SpecError, match=r"hybrid_override_pattern|which layers they are"):
        import_config(data, "config.json", name="it")


@pytest.mark.parametrize("listed", ["full_attention", {"0": "full_attention"}, []])
def test_kinds_of_layers_that_are_no_list_are_refused(listed: object) -> None:
    with pytest.raises(SpecError, match="layer_types"):
        import_config({**LLAMA, "layer_types": listed}, "config.json", name="it")


@pytest.mark.parametrize("width", ["1024", -1, 10.5, True, {}])
def test_a_width_that_is_no_number_is_refused(width: object) -> None:
    with pytest.raises(SpecError, match="intermediate_size"):
        import_config({**LLAMA, "intermediate_size": width}, "config.json", name="it")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"num_kv_shared_layers": 4},
            "num_kv_shared_layers is a field of other model types than qwen3: sized with it",
        ),
        ({"index_topk": 2048}, "index_topk is a field of other model types than qwen3: sized without"),
        ({"num_kv_shared_layers": 0, "index_topk": None, "kv_lora_rank": None}, None),
    ],
)
def test_fields_of_other_model_types_are_said_whether_they_count_or_not(
    change: dict[str, Any], said: str | None
) -> None:
    config = {
        "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 1000, "intermediate_size": 64, **change,
    }  # fmt: skip
    found = [text for text in import_config(config, "x", name="x").warnings if "other model types" in text]
    assert found == ([said] if said else [])


def flat_qwen25_vl(**more: Any) -> dict[str, Any]:
    """As Qwen2.5-VL was published: the language model's fields lie outside, and it names the whole model."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "hidden_size": 3584,
        "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "use_sliding_window": False, "sliding_window": 32768,
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        },
        **more,
    }  # fmt: skip


def test_fields_outside_are_the_language_models_and_its_class_fills_them_in() -> None:
    flat = import_config(flat_qwen25_vl(), "config.json", name="vl")
    outside = ("architectures", "model_type", "vision_config")
    inside = {key: value for key, value in flat_qwen25_vl().items() if key not in outside}
    nested = import_config(
        {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
            "vision_config": flat_qwen25_vl()["vision_config"],
            "text_config": {**inside, "model_type": "qwen2_5_vl_text"},
        },
        "config.json",
        name="vl",
    )  # fmt: skip
    assert not flat.warnings
    assert flat.model.max_context == 32768
    assert flat.model.blocks == nested.model.blocks
    assert flat.model.blocks["full"].attention.qkv_bias
    assert parameter_count(flat.model) == parameter_count(nested.model) == 8_292_166_656


@pytest.mark.parametrize(
    "model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm_ocr", "cohere_compass"]
)
def test_whole_models_say_whether_embeddings_are_tied(model_type: str) -> None:
    """Their language models' classes have no such field, or another default; the whole model's is untied."""
    said = {"hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 2}
    text = {"model_type": f"{model_type}_text", **said}
    assert not import_config(
        {"model_type": model_type, "text_config": text}, "c", name="m"
    ).model.tie_embeddings
    tied = {"model_type": model_type, "tie_word_embeddings": True, "text_config": text}
    assert import_config(tied, "c", name="m").model.tie_embeddings


@pytest.mark.parametrize(("engine", "option"), [("vllm", "max_model_len"), ("sglang", "context_length")])
def test_a_context_that_no_file_gives_is_said_to_be_assumed(tmp_path: Path, engine: str, option: str) -> None:
    said = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    fields = {"model_type": "mine", "vocab_size": 128, "intermediate_size": 128, **said}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architectures": ["MineForCausalLM"], **fields}))
    flags = {
        "model": str(path),
        "gpu": "h100-sxm",
        "engine.kind": engine,
        "workload.synthesize": "chat",
    }
    (warning,) = (w for w in resolve_deployment(load_scenario(None, flags)).warnings if "are taken" in w)
    assert "2,048 tokens" in warning
    assert f"engine.{option}=N" in warning
    asked = resolve_deployment(load_scenario(None, {**flags, f"engine.{option}": 4096})).warnings
    assert not any("are taken" in w for w in asked)


@pytest.mark.parametrize("size", [None, 0])
@pytest.mark.parametrize("listed", [True, False])
def test_chunks_that_are_turned_off_leave_full_layers(size: int | None, listed: bool) -> None:
    said = {"hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 4}
    kinds = {"layer_types": ["chunked_attention", "full_attention"] * 2} if listed else {}
    fields = {"model_type": "llama4_text", "attention_chunk_size": size, **said, **kinds}
    model = import_config(fields, "c", name="m").model
    assert {block.attention.kind for block in model.blocks.values()} == {"full"}
    chunked = import_config({**fields, "attention_chunk_size": 512}, "c", name="m").model
    assert {block.attention.kind for block in chunked.blocks.values()} == {"full", "chunked"}
