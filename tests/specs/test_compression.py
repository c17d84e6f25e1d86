"""DeepSeek-V4.1: few layers compress and choose, the others read what these left (pages of vLLM 0.33)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.scenario.load import load_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count, stage_weights
from kvplan.specs.attention import CompressedAttention
from kvplan.specs.dump import model_yaml
from kvplan.specs.huggingface import import_config
from kvplan.specs.model import ModelSpec

TEXT: dict[str, Any] = {
    "model_type": "deepseek_v41_text", "vocab_size": 129280, "hidden_size": 5120, "moe_intermediate_size": 2304,
    "num_hidden_layers": 40, "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512,
    "qk_rope_head_dim": 64, "q_lora_rank": 1280, "o_lora_rank": 1024, "o_groups": 8, "n_routed_experts": 384,
    "n_shared_experts": 1, "num_experts_per_tok": 6, "sliding_window": 128, "max_position_embeddings": 1048576,
    "compress_ratios": [0, 0, *[2] * 18, *[1] * 20, 0, 0, 0], "kv_source_layer_ids": [2, 8, 14, 20],
    "index_source_layer_ids": [2, 8, 14, 20, 24, 28, 32, 36], "index_n_heads": 32, "index_head_dim": 128,
    "index_topk": 512, "candidate_source_layer_id": 20, "hc_mult": 4, "hc_sinkhorn_iters": 20,
    "engram_layer_ids": [1, 14], "engram_num_embeddings": [384006168, 384016682], "engram_max_ngram_size": 4,
    "engram_n_heads": 8, "engram_head_dim": 256, "num_nextn_predict_layers": 3, "dspark_n_routed_experts": 128,
    "dspark_num_experts_per_tok": 3,
}  # fmt: skip
V41: dict[str, Any] = {
    "architectures": ["DeepseekV41ForCausalLM"], "model_type": "deepseek_v41", "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32], "expert_dtype": "fp4"},
    "text_config": TEXT,
    "vision_config": {"num_hidden_layers": 32, "hidden_size": 1024, "intermediate_size": 2816, "patch_size": 14},
}  # fmt: skip


def build(**changed: Any) -> ModelSpec:
    config = {**V41, "text_config": {**TEXT, **changed}}
    return import_config(config, "config.json", name="test").model


def padded(size: int) -> int:
    return -(-size // 576) * 576


def test_only_sources_keep_entries_and_keys() -> None:
    layers = [block.attention for block in build().layers()]
    compressing = [
        index
        for index, layer in enumerate(layers)
        if isinstance(layer, CompressedAttention) and layer.ratio and layer.compresses
    ]
    choosing = [
        index
        for index, layer in enumerate(layers)
        if isinstance(layer, CompressedAttention) and layer.indexer is not None
    ]
    assert compressing == [2, 8, 14, 20]
    assert choosing == [2, 8, 14, 20, 24, 28, 32, 36]


def test_bytes_per_token_are_those_of_four_layers() -> None:
    pages = 3 * (padded(128 * 584) + padded(128 * 132)) + padded(256 * 584) + padded(256 * 132)
    assert size_model(build(), context_tokens=1 << 20).kv_bytes_per_token == -(-pages // 256)


def test_one_ring_a_compressing_layer_whose_ratio_is_not_one() -> None:
    stores = [store for row in size_model(build(), context_tokens=1 << 20).rows for store in row.stores]
    rings = [store for store in stores if store.name == "open group"]
    assert [store.page_bytes(store.block_tokens(16)) for store in rings] == [8 * 2 * 512 * 4]


def test_sglang_keeps_index_keys_in_four_bits() -> None:
    stores = [
        s for row in size_model(build(), context_tokens=4096, retention="sglang").rows for s in row.stores
    ]
    assert {s.content.bytes_per_entry() for s in stores if s.name == "indexer keys"} == {64 + 4}


def test_ideal_keeps_one_entry_for_two_tokens_and_a_window() -> None:
    few, more = (
        size_model(build(), context_tokens=n, retention="ideal").kv_bytes_per_sequence for n in (1000, 1002)
    )
    assert more - few == 3 * 512 * 2 + 2 * 512 * 2 + (3 * 128 + 2 * 128) * 2


def test_weights_are_the_475_gib_of_the_checkpoint() -> None:
    model = build()
    bill = stage_weights(model, draft=True)
    tables = sum(extra.parameters for extra in model.extra_weights if extra.in_host_memory)
    assert tables == (384006168 + 384016682) * 256
    # fp8 rows with a byte of scale for 32 elements; the published files are 475.3 GiB.
    assert (bill.stored_bytes + tables * 33 / 32) / 2**30 == pytest.approx(475.3, rel=0.005)


def test_tables_in_host_memory_are_counted_but_on_no_gpu() -> None:
    with_tables, without = build(), build(engram_layer_ids=None, engram_num_embeddings=None)
    more = stage_weights(with_tables).total_bytes - stage_weights(without).total_bytes
    assert more < 2**30
    assert parameter_count(with_tables) - parameter_count(without) > 196e9
    assert "in_host_memory: true" in model_yaml(with_tables)
    warnings = import_config(V41, "config.json", name="t").warnings
    assert any("host's memory" in warning for warning in warnings)


def test_drafting_layers_have_a_window_and_fewer_experts() -> None:
    draft = build().draft
    assert draft is not None
    assert isinstance(draft.block.attention, CompressedAttention)
    assert (draft.block.attention.ratio, draft.block.mlp.experts) == (0, 128)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"kv_source_layer_ids": ["2"]}, "kv_source_layer_ids"),
        ({"compress_ratios": [0, 0, *[2] * 18, *[-1] * 20]}, "compress_ratios"),
        ({"compress_ratios": [0, 2]}, "compress_ratios"),
        ({"engram_num_embeddings": [-1, 5]}, "engram_num_embeddings"),
        ({"kv_source_layer_ids": [8], "index_source_layer_ids": [2]}, "kv_source_layer_ids"),
        ({"kv_source_layer_ids": None}, "compress_ratios"),
    ],
)
def test_impossible_topologies_are_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as found:
        build(**changed)
    assert field in str(found.value)


@pytest.mark.parametrize(
    ("changed", "said"), [({}, 1), ({"cache.prefix": "none"}, 0), ({"gpu": "mi300x"}, 0)]
)
def test_windows_that_vllm_computes_again_are_said_to_be_simulated_otherwise(
    tmp_path: Path, changed: dict[str, str], said: int
) -> None:
    spec = tmp_path / "v41.yaml"
    spec.write_text(model_yaml(build()), encoding="utf-8")
    flags = {
        "model": str(spec), "gpu": "b200", "parallel.tp": 8, "workload.synthesize": "chat",
        "cache.groups": [{"kind": "full"}], "cache.blocks": 10_000, **changed,
    }  # fmt: skip
    warnings = resolve_deployment(load_scenario(None, flags)).warnings
    assert sum("--no-swa-bounded-replay" in words for words in warnings) == said
