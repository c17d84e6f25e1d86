"""What stands beside attention: gates, convolutions, tables, windows that spare the prompt."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count, stage_weights
from kvplan.specs.huggingface import import_config
from kvplan.specs.huggingface.reader import Imported

PLAIN: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 100,
    "num_key_value_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip
LATENT = {
    **PLAIN, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "q_lora_rank": 24,
}  # fmt: skip


def read(config: dict[str, Any]) -> Imported:
    return import_config(config, "config.json", name="test")


@pytest.mark.parametrize(
    "gated",
    [
        {"model_type": "kimi_linear", "mla_use_output_gate": True, "layer_types": ["full_attention"] * 4},
        {"model_type": "deepseek_v3", "attn_output_gate": True},
    ],
)
def test_latent_attention_may_have_a_gate(gated: dict[str, Any]) -> None:
    off = {key: value is not True and value for key, value in gated.items()}
    more = parameter_count(read({**LATENT, **gated}).model) - parameter_count(read({**LATENT, **off}).model)
    assert more == 4 * 64 * (4 * 16)


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "unlimited_ocr_text", "sliding_window": 128},
        {"model_type": "deepseek_v2", "use_mla": False, "sliding_window": 128, "rswa_window": 128},
        {"model_type": "llama", "sliding_window": 128, "layer_types": ["reference_sliding_attention"] * 4},
    ],
)
def test_windows_of_answers_keep_the_prompt(fields: dict[str, Any]) -> None:
    found = read({**PLAIN, **fields})
    assert (
        size_model(found.model, context_tokens=400, retention="ideal").kv_bytes_per_sequence
        == 4 * 2 * 64 * 2 * 400
    )
    assert any("prompts stay" in warning for warning in found.warnings)


def test_an_outer_unlimited_ocr_is_seen_too() -> None:
    inner = {**PLAIN, "model_type": "deepseek_v2", "use_mla": False, "sliding_window": 128}
    model = read({"model_type": "unlimited-ocr", "language_config": inner}).model
    assert {block.attention.kind for block in model.layers() if block.attention} == {"full"}


def test_tables_of_qwen_4_are_in_host_memory() -> None:
    from tests.specs.test_pooled_indexers import QWEN

    tables = {"ple_layer_ids": [2, 6], "ple_embed_dim": 48, "ngram_vocab_size_base": 1_000_000, "hc_count": 4,
              "ngram_size": 3, "ple_conv_kernel_size": 4}  # fmt: skip
    without, found = read(QWEN), read({**QWEN, **tables})
    more = parameter_count(found.model) - parameter_count(without.model)
    assert more == 2 * (1_000_000 * 48 + 5 * 48 * 64 + 4 * 64 * 7)
    assert stage_weights(found.model).total_bytes - stage_weights(without.model).total_bytes < 1 << 21
    assert any(f"{2 * 9 * 256:,} elements" in warning for warning in found.warnings)


def test_inkling_has_convolutions_without_projections() -> None:
    inkling = {**PLAIN, "model_type": "inkling_text", "head_dim": 16, "swa_head_dim": 16, "swa_num_attention_heads": 4,
               "swa_num_key_value_heads": 4, "sliding_window": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
               "moe_intermediate_size": 32, "n_shared_experts": 1}  # fmt: skip
    layer = parameter_count(read(inkling).model) - parameter_count(
        read({**inkling, "num_hidden_layers": 3}).model
    )
    assert layer < 4 * 64 * 64 + 3 * 64 * (5 * 32) + 3 * 64 * 128 + 5_000


@pytest.mark.parametrize(
    ("bare", "attending", "kept"),
    # What classes of transformers 5.23 make of a file that says nothing else, at 5,000 tokens.
    [
        ("recurrent_gemma", 8, 168_151_040),
        ("gpt_neo", 24, 983_040_000),
        ("zamba2", 9, 994_646_016),
        ("modernbert-decoder", 22, 125_589_504),
        ("zamba", 13, 1_970_864_128),
        ("mllama_text_model", 32, 655_360_000),
    ],
)
def test_what_a_silent_file_leaves_to_its_class(bare: str, attending: int, kept: int) -> None:
    model = read({"model_type": bare}).model
    report = size_model(model, context_tokens=5000, retention="transformers")
    assert sum(block.attention is not None for block in model.layers()) == attending
    assert report.kv_bytes_per_sequence + report.state_bytes_per_sequence == kept
