"""Indexers that pool keys, layers without rotary dimensions, layers that read another layer's latents."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.size import size_model
from kvplan.specs.huggingface import import_config
from kvplan.specs.model import ModelSpec

GLM_FLASH: dict[str, Any] = {
    "model_type": "glm5_next_text", "hidden_size": 64, "num_hidden_layers": 8, "vocab_size": 100,
    "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": 32,
    "qk_rope_head_dim": 0, "qk_nope_head_dim": 16, "v_head_dim": 16, "index_head_dim": 16,
    "index_n_heads": 2, "index_topk": 16, "index_kpool": 16, "intermediate_size": 64,
    "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "linear_num_heads": 4,
    "linear_head_dim": 8, "linear_lower_bound": -5.0,
}  # fmt: skip

LARGE: dict[str, Any] = {
    "model_type": "mistral_large4_text", "hidden_size": 6144, "num_hidden_layers": 8, "vocab_size": 204800,
    "num_attention_heads": 64, "num_key_value_heads": 64, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64, "v_head_dim": 128, "index_head_dim": 128, "index_n_heads": 32,
    "index_topk": 2048, "intermediate_size": 24576, "moe_intermediate_size": 6144, "n_routed_experts": 128,
    "num_experts_per_tok": 4, "first_k_dense_replace": 1,
}  # fmt: skip

QWEN: dict[str, Any] = {
    "model_type": "qwen4_exp_text", "hidden_size": 64, "num_hidden_layers": 8, "vocab_size": 100,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "indexer_n_heads": 2, "indexer_kv_heads": 1,
    "indexer_head_dim": 16, "indexer_budget": 16, "indexer_compress_ratio": 4,
}  # fmt: skip


def model(config: dict[str, Any], **changes: Any) -> ModelSpec:
    return import_config({**config, **changes}, "config.json", name="model").model


def kept(spec: ModelSpec, engine: str, tokens: int) -> int:
    report = size_model(spec, context_tokens=tokens, kv="bf16", retention=engine)
    return report.kv_bytes_per_sequence + report.state_bytes_per_sequence


@pytest.mark.parametrize(
    ("config", "per_token", "constant"),
    # Measured on models of these sizes in transformers 5.23: bytes at 8 and at 40 tokens.
    [
        (GLM_FLASH, (21_152 - 12_832) // 32, 10_752),
        (LARGE, 11_008, 0),
        (QWEN, (22_976 - 11_968) // 32, 9_216),
    ],
)
def test_transformers_keeps_every_token(config: dict[str, Any], per_token: int, constant: int) -> None:
    assert kept(model(config), "transformers", 8) == 8 * per_token + constant
    assert kept(model(config), "transformers", 40) == 40 * per_token + constant


def test_engines_keep_one_key_a_pool_and_the_keys_of_the_open_pool() -> None:
    report = size_model(model(GLM_FLASH), context_tokens=4101, kv="bf16")
    row = next(row for row in report.rows if "MLA" in row.kind)
    _, keys, pool = row.stores
    assert keys.bytes(4101) == 4101 // 16 * (16 + 4)
    assert (pool.reach, pool.content.bytes(1), pool.block_tokens(1152)) == ("remainder", 2 * 16 * 2, 16)
    assert row.kept_bytes == 4101 * 64 + 256 * 20 + 5 * 64
    assert report.layout is not None
    rings = [group for group in report.layout.groups if group.name == "open pool"]
    assert [group.blocks_per_request for group in rings] == [1] * len(rings)
    assert sum(group.layers for group in rings) == 2


def test_keys_of_ordinary_heads_are_pooled_too() -> None:
    row = next(
        row for row in size_model(model(QWEN), context_tokens=4096, kv="bf16").rows if "GQA" in row.kind
    )
    assert row.bytes_per_token == 2 * 2 * 16 * 2 + 16 * 2 // 4


def test_packed_latents_have_room_for_rotary_dimensions_that_are_not_there() -> None:
    spec = model(GLM_FLASH, kv_lora_rank=512, qk_nope_head_dim=256)
    row = next(row for row in size_model(spec, context_tokens=4096, kv="fp8").rows if "MLA" in row.kind)
    assert row.stores[0].bytes_per_token() == 656


def test_layers_without_rotary_dimensions_keep_the_latent_alone() -> None:
    def per_token(spec: ModelSpec) -> int:
        return size_model(spec, context_tokens=4096, kv="bf16", retention="transformers").kv_bytes_per_token

    every_fourth = 8 * (1152 + 256) - 2 * 128
    assert per_token(model(LARGE)) == every_fourth
    assert per_token(model(LARGE, no_rope_layer_interval=2)) == every_fourth - 2 * 128
    assert per_token(model(LARGE, no_rope_layers=[1] * 7 + [0])) == every_fourth + 128


def test_layers_that_read_another_layers_latents_keep_their_index_keys_alone() -> None:
    sources = [0, 0, 2, 2, 4, 4, 6, 6]
    rotary = {"no_rope_layers": [1] * 8}
    shared = model(LARGE, kv_source_layers=sources, **rotary)
    assert (
        size_model(shared, context_tokens=4096, retention="transformers").kv_bytes_per_token
        == 4 * 1152 + 8 * 256
    )
    types = ["full", "shared"] * 4
    alone = model(LARGE, kv_source_layers=sources, indexer_types=types, **rotary)
    assert size_model(alone, context_tokens=4096, retention="transformers").kv_bytes_per_token == 4 * (
        1152 + 256
    )


@pytest.mark.parametrize(
    "sources", [[0, 2, 2, 3, 4, 5, 6, 7], [0, 0, 1, 3, 4, 5, 6, 7], [0, 1], [0, 1, 2, "3"] * 2]
)
def test_a_source_that_is_no_earlier_owner_is_refused(sources: list[object]) -> None:
    with pytest.raises(SpecError, match="the layer whose cache it reads") as refused:
        model(LARGE, kv_source_layers=sources)
    assert "kv_source_layers" in str(refused.value.where)
