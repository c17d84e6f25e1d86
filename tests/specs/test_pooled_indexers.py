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


INKLING: dict[str, Any] = {
    "model_type": "inkling_text", "hidden_size": 6144, "num_hidden_layers": 12, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 128, "swa_num_attention_heads": 64,
    "swa_num_key_value_heads": 16, "swa_head_dim": 128, "sliding_window_size": 512,
    "local_layer_ids": [0, 1, 2, 3, 4, 6, 7, 8, 9, 10], "conv_kernel_size": 4, "vocab_size": 1000,
    "moe_intermediate_size": 64, "n_routed_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64,
}  # fmt: skip


def test_convolutions_that_vllm_pages_are_a_window_there_and_a_state_elsewhere() -> None:
    """InklingConvState of vLLM 0.33: per head K, V and two shares of the hidden size, up to a power of two."""
    spec = model(INKLING)
    paged = size_model(spec, context_tokens=32768, kv="fp8")
    assert paged.state_bytes_per_sequence == 0
    assert paged.layout is not None
    found = [group for group in paged.layout.groups if group.name == "convolution inputs"]
    assert sum(group.layers - group.padding_layers for group in found) == 12
    for group in found:
        assert (group.block_tokens, group.page_bytes) == (4, 4 * 8 * 2048 * 2)
        assert group.blocks_per_request == (3 + 16384 + 3) // 4 + 1
    channels = 10 * (2 * 16 * 128 + 2 * 6144) + 2 * (2 * 8 * 128 + 2 * 6144)
    kept = size_model(spec, context_tokens=32768, kv="fp8", retention="transformers")
    assert kept.state_bytes_per_sequence == channels * 4 * 4


def test_vllm_gives_every_row_the_width_of_the_windowed_latents() -> None:
    """Dots3NotePaddedMLAAttention of vLLM 0.33."""
    spec = model(
        {
            **{key: value for key, value in LARGE.items() if key != "kv_source_layers"},
            "model_type": "dots3_note_text",
            "swa_kv_lora_rank": 1024,
            "swa_q_lora_rank": 1024,
            "swa_head_dim": 256,
            "swa_qk_nope_head_dim": 192,
            "swa_v_head_dim": 128,
            "swa_num_attention_heads": 64,
            "sliding_window": 512,
        }
    )
    rows = {
        engine: size_model(spec, context_tokens=4096, retention=engine).rows for engine in ("vllm", "ideal")
    }
    widths = {
        engine: {row.stores[0].bytes_per_token() for row in found if row.stores[0].name == "latent"}
        for engine, found in rows.items()
    }
    assert widths == {"vllm": {2176}, "ideal": {1152, 2176}}


def test_index_keys_rotated_in_fp32_stay_wide_in_transformers() -> None:
    """Measured in transformers 5.23 on the default configuration of dots3.note: 93,440 B a token."""
    spec = import_config({"model_type": "dots3_note_text", "hidden_size": 5120}, "x", name="model").model
    assert kept(spec, "transformers", 8) == 8 * 93_440
    assert kept(spec, "transformers", 64) == 64 * 93_440


def test_sglang_counts_every_tokens_share_of_a_pooled_key() -> None:
    spec = model(GLM_FLASH, index_head_dim=128)
    rows = size_model(spec, context_tokens=4096, kv="bf16", retention="sglang").rows
    row = next(row for row in rows if "MLA" in row.kind)
    assert [store.bytes_per_token() for store in row.stores] == [64, 9]  # 132 / 16, rounded up


@pytest.mark.parametrize("absent", [{}, {"indexer_n_heads": None}])
def test_without_an_indexer_sparse_layers_of_qwen_are_full(absent: dict[str, Any]) -> None:
    plain = {key: value for key, value in QWEN.items() if not key.startswith("indexer")}
    kinds = [*["linear_attention"] * 3, "indexed_attention"] * 2
    spec = model({**plain, "layer_types": kinds, **absent})
    attention = [block.attention for block in spec.layers() if block.attention is not None]
    assert [(layer.kind, layer.indexer) for layer in attention] == [("full", None)] * 2
    assert size_model(spec, context_tokens=64).kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
