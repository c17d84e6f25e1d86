"""Habits that files leave unsaid, told by the model's type or architecture as engines tell them."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config
from kvplan.specs.model import ModelSpec

LONGCAT: dict[str, Any] = {
    "architectures": ["LongcatFlashForCausalLM"], "model_type": "longcat_flash", "vocab_size": 1000,
    "hidden_size": 768, "num_layers": 4, "num_attention_heads": 4, "ffn_hidden_size": 512, "moe_topk": 2,
    "expert_ffn_hidden_size": 128, "n_routed_experts": 8, "max_position_embeddings": 4096, "q_lora_rank": 96,
    "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
    "tie_word_embeddings": False,
}  # fmt: skip
BAILING: dict[str, Any] = {
    "model_type": "bailing_hybrid", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 128, "layer_group_size": 4,
    "kv_lora_rank": 64, "q_lora_rank": 96, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "vocab_size": 1000,
    "first_k_dense_replace": 1, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip


def build(config: dict[str, Any]) -> ModelSpec:
    return import_config(config, "config.json", name="test").model


def test_longcat_counts_layers_of_two_attentions_under_either_name() -> None:
    both = {**LONGCAT, "num_hidden_layers": 8}  # what its class makes of four
    assert build(both).num_layers == build(LONGCAT).num_layers == 8


def test_longcat_with_ngrams_has_two_attentions_a_layer_and_tables() -> None:
    ngrams = {"ngram_vocab_size_ratio": 3, "emb_neighbor_num": 4, "emb_split_num": 2}
    lite = {**LONGCAT, "architectures": ["LongcatFlashNgramForCausalLM"], "model_type": "longcat_flash_ngram"}
    model = build({**lite, **ngrams})
    assert size_model(model, context_tokens=64).kv_bytes_per_token == 2 * 4 * (64 + 16) * 2
    # Six tables of 3,001, 3,003 ... rows as wide as a sixth of the hidden size, and a projection of each.
    tables = sum(3 * 1000 + 2 * i + 1 for i in range(6)) * 128 + 6 * 128 * 768
    assert parameter_count(model) == parameter_count(build(LONGCAT)) + tables


@pytest.mark.parametrize(
    ("architecture", "kind", "state_bytes"),
    [
        ("BailingMoeV2_5ForCausalLM", "linear", 6 * 4 * 128 * 128 * 2),
        ("BailingMoeV3ForCausalLM", "kimi_delta", 6 * (3 * 4 * 128 * 3 * 2 + 4 * 128 * 128 * 4)),
        ("", "kimi_delta", 6 * (3 * 4 * 128 * 3 * 2 + 4 * 128 * 128 * 4)),
    ],
)
def test_ling_says_by_its_architecture_which_linear_attention_it_has(
    architecture: str, kind: str, state_bytes: int
) -> None:
    model = build({**BAILING, "architectures": [architecture]} if architecture else BAILING)
    assert {block.state.kind for block in model.layers() if block.state is not None} == {kind}
    assert size_model(model, context_tokens=64).state_bytes_per_sequence == state_bytes


LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "mistral", "sliding_window": 0},
        {"model_type": "some_ocr", "compression_ratio": 1.0},
        {"model_type": "phi3_v", "embd_layer": {"embedding_cls": "image"}},
        {"model_type": "kimi_audio", "kimia_mimo_layers": 6},
        {"model_type": "ernie4_5_moe_vl", "spatial_conv_size": 2, "temporal_conv_size": 2},
        {"architectures": ["Grok1ForCausalLM"], "model_type": "git", "sliding_window_size": -1},
    ],
)
def test_what_changes_no_cache_refuses_no_model(fields: dict[str, Any]) -> None:
    model = build({**LLAMA, **fields})
    assert [block.attention.kind for block in model.layers() if block.attention] == ["full"] * 4


def test_a_list_of_layers_goes_before_the_windows_that_say_it_again() -> None:
    types = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    windows = {"interleaved_sliding_window": [128, 128, 128, None], "sliding_window_pattern": 4}
    model = build({**LLAMA, "model_type": "plamo3", "layer_types": types, "sliding_window": 128, **windows})
    kinds = [block.attention.kind for block in model.layers() if block.attention]
    assert kinds == ["sliding"] * 3 + ["full"]


def test_a_nested_configuration_without_a_type_is_of_its_architecture() -> None:
    text = {key: value for key, value in LLAMA.items() if key != "model_type"}
    text |= {
        "architectures": ["DeepseekV2ForCausalLM"],
        "use_mla": False,
        "kv_lora_rank": None,
        "lm_head": True,
    }
    imported = import_config({"model_type": "deepseek_vl_v2", "language_config": text}, "x", name="x")
    assert imported.model.family == "deepseek_v2"
    assert {block.attention.kind for block in imported.model.layers() if block.attention} == {"full"}
    assert not any("lm_head" in text for text in imported.warnings)


def test_granite_without_a_list_of_layers_is_all_mamba() -> None:
    for fields in ({}, {"layer_types": None}):
        model = build({**LLAMA, "model_type": "granitemoehybrid", **fields})
        assert [block.state.kind for block in model.layers() if block.state] == ["mamba2"] * 4
        assert size_model(model, context_tokens=64).kv_bytes_per_token == 0


def test_a_window_that_excludes_the_token_itself_is_one_larger_in_vllm() -> None:
    types = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    window = {"sliding_window": 128, "layer_types": types}
    for model_type, wider in (("cohere2", 1), ("mistral", 0)):
        model = build({**LLAMA, **window, "model_type": model_type})
        for engine, more in (("vllm", wider), ("transformers", 0)):
            row = size_model(model, context_tokens=4096, retention=engine).rows[0]
            assert row.stores[0].limit == 128 + more
