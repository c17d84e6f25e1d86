"""Hybrids that name their layers' mixers in ways of their own: MiniCPM-SALA, PLaMo 2."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config
from kvplan.specs.model import ModelSpec

SPARSE, LINEAR = "minicpm4", "lightning-attn"
SALA: dict[str, Any] = {
    "architectures": ["MiniCPMSALAForCausalLM"], "model_type": "minicpm_sala", "hidden_size": 4096,
    "intermediate_size": 16384, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 2,
    "head_dim": 128, "vocab_size": 73448, "max_position_embeddings": 524288, "tie_word_embeddings": False,
    "attn_use_output_gate": True, "use_output_gate": True, "use_output_norm": True, "qk_norm": True,
    "lightning_nh": 32, "lightning_nkv": 32, "lightning_head_dim": 128,
    "mixer_types": [SPARSE, *[LINEAR] * 8, SPARSE, *[LINEAR] * 6, SPARSE, SPARSE, *[LINEAR] * 4, SPARSE,
                    *[LINEAR] * 6, SPARSE, SPARSE, SPARSE],
    "sparse_config": {"kernel_size": 32, "kernel_stride": 16, "block_size": 64, "topk": 64},
}  # fmt: skip
PLAMO: dict[str, Any] = {
    "architectures": ["Plamo2ForCausalLM"], "model_type": "plamo2", "hidden_size": 4096, "intermediate_size": 16384,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 4, "hidden_size_per_head": 128,
    "mamba_d_conv": 4, "mamba_d_state": 64, "mamba_num_heads": 64, "mamba_step": 2, "mamba_enabled": True,
    "attention_window_size": 2048, "full_attention_idx": [], "tie_word_embeddings": True, "vocab_size": 100000,
    "max_position_embeddings": 10485760,
}  # fmt: skip


def build(config: dict[str, Any]) -> ModelSpec:
    return import_config(config, "config.json", name="test").model


def test_sala_has_eight_layers_of_heads_and_a_matrix_per_head_in_the_others() -> None:
    report = size_model(build(SALA), context_tokens=4096, retention="vllm", mamba_mode="none")
    assert report.kv_bytes_per_token == 8 * 2 * 2 * 128 * 2
    assert report.state_bytes_per_sequence == 24 * 32 * 128 * 128 * 2
    assert parameter_count(build(SALA)) == pytest.approx(9.48e9, rel=0.002)


def test_sglang_gives_mean_keys_slots_of_the_pool() -> None:
    # One slot of K and V for every 16 tokens and one for every 64.
    report = size_model(build(SALA), context_tokens=64_000, retention="sglang")
    assert report.kv_bytes_per_sequence == 8 * 2 * 2 * 128 * 2 * (64_000 + 4_000 + 1_000)
    assert report.state_bytes_per_sequence == 24 * 32 * 128 * 128 * 4


def test_the_algorithm_needs_mean_keys_alone() -> None:
    report = size_model(build(SALA), context_tokens=64_000, retention="ideal")
    assert report.kv_bytes_per_sequence == 8 * 2 * 128 * 2 * (2 * 64_000 + 4_000 + 1_000)


def test_a_short_list_of_mixers_is_repeated() -> None:
    model = build(
        {**SALA, "mixer_types": ["attention", "lightning", "lightning_attn"], "num_hidden_layers": 7}
    )
    assert [block.state is None for block in model.layers()] == [True, False, False] * 2 + [True]


def test_an_unknown_mixer_is_refused() -> None:
    with pytest.raises(SpecError, match="mixer_types"):
        build({**SALA, "mixer_types": ["hyena"]})


def test_plamo_2_convolves_x_alone() -> None:
    report = size_model(build(PLAMO), context_tokens=4096, retention="vllm", mamba_mode="none")
    assert report.kv_bytes_per_token == 16 * 2 * 4 * 128 * 2
    assert report.state_bytes_per_sequence == 16 * (64 * 128 * 3 + 64 * 128 * 64) * 2
    # in, bcdt, dt and out projections, the convolution, A, D, the bias and three norms
    inner, rank = 64 * 128, 256
    state = 3 * inner * 4096 + inner * (rank + 128) + 64 * rank + inner * 4 + 3 * 64 + rank + 128
    attention = 4096 * 128 * (32 + 2 * 4) + 32 * 128 * 4096
    layers = 16 * (state + attention) + 32 * (3 * 4096 * 16384 + 2 * 4096)
    assert parameter_count(build(PLAMO)) == pytest.approx(layers + 100000 * 4096, rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "attention"),
    [
        ({"mamba_step": 4, "num_hidden_layers": 8}, [2, 6]),
        ({"mamba_step": 8, "num_hidden_layers": 4}, [3]),
        ({"mamba_step": 8, "num_hidden_layers": 5}, [4]),
        ({"mamba_enabled": False, "num_hidden_layers": 3}, [0, 1, 2]),
    ],
)
def test_attention_is_in_the_middle_of_a_step(fields: dict[str, Any], attention: list[int]) -> None:
    layers = build({**PLAMO, **fields}).layers()
    assert [index for index, block in enumerate(layers) if block.attention is not None] == attention


def test_tensor_parallelism_cuts_a_state_without_groups() -> None:
    model = build(PLAMO)
    whole, quarter = (size_model(model, context_tokens=64, parallel=Parallel(tp=tp)) for tp in (1, 4))
    assert quarter.bytes_per_gpu * 4 == whole.bytes_per_gpu


STEP: dict[str, Any] = {
    "architectures": ["Step5ForCausalLM"], "model_type": "step5", "hidden_size": 1024, "intermediate_size": 2048,
    "num_hidden_layers": 4, "num_attention_heads": 16, "num_attention_groups": 8, "head_dim": 64, "vocab_size": 1000,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "full_attention"],
    "attention_other_setting": {"attention_type": "sliding_attention", "num_attention_heads": 24,
                                "num_attention_groups": 4, "head_dim": 64},
    "sliding_window": 512, "moe_num_experts": 8, "moe_top_k": 2, "moe_intermediate_size": 256,
    "share_expert_dim": 256, "moe_layer_list": [1, 2, 3], "num_nextn_predict_layers": 1,
    "sparse_config": {"enabled": True, "topk": 512}, "swiglu_limits": [0.0, 7.0, 7.0, 7.0],
    "use_rope_layers": [True, True, False, True], "max_position_embeddings": 65536,
}  # fmt: skip


def test_step_5_has_one_key_of_a_byte_an_element_for_eight_tokens() -> None:
    model = build(STEP)
    kinds = [getattr(block.attention, "indexer", None) is not None for block in model.layers()]
    assert kinds == [True, False, False, True]
    per_token = size_model(model, context_tokens=1 << 16, retention="vllm").kv_bytes_per_token
    assert per_token == 2 * (2 * 8 * 64 * 2 + 256 // 8)
    assert [block.mlp.kind for block in model.layers() if block.mlp] == ["dense", "moe", "moe", "moe"]


def test_a_section_of_another_kind_adds_no_mean_keys() -> None:
    sparse = {key: value for key, value in STEP.items() if key != "sparse_config"}
    model = build({**sparse, "sparse_config": {"sparsity": 0.9}, "model_type": "llama"})
    assert {store.name for row in size_model(model, context_tokens=64).rows for store in row.stores} == {
        "K and V"
    }


NEW: dict[str, Any] = {
    "model_type": "brand_new", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 100,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.mark.parametrize(
    ("cycle", "kept"), [([100, None], [100, 500] * 2), ([100, 50, 0], [100, 50, 500, 100]), ([64], [64] * 4)]
)
def test_windows_in_a_cycle(cycle: list[int | None], kept: list[int]) -> None:
    model = build({**NEW, "interleaved_sliding_window": cycle})
    report = size_model(
        model, context_tokens=500, retention="sglang", max_num_batched_tokens=1, async_scheduling=False
    )
    assert [getattr(block.attention, "window", 500) for block in model.layers()] == kept
    assert report.kv_bytes_per_sequence >= sum(kept) * 2 * 4 * 32 * 2


def test_keys_in_two_parts_are_wider_than_values() -> None:
    model = build({**NEW, "qk_nope_dim": 64, "qk_rope_dim": 32, "v_channels": 48, "param_sink_number": 128})
    report = size_model(model, context_tokens=10, retention="ideal")
    assert report.kv_bytes_per_sequence == 4 * 10 * 4 * (96 + 48) * 2


def test_blocks_of_diffusion_change_no_cache() -> None:
    plain = size_model(build(NEW), context_tokens=100).allocated_bytes_per_sequence
    for field in ("block_size", "block_length"):
        assert size_model(build({**NEW, field: 32}), context_tokens=100).allocated_bytes_per_sequence == plain


def test_names_of_moondream() -> None:
    text = {"dim": 256, "ff_dim": 512, "n_layers": 4, "n_heads": 8, "n_kv_heads": 8, "vocab_size": 100,
            "max_context": 512,
            "moe": {"n_experts": 8, "start_layer": 3, "n_experts_per_tok": 2, "expert_inner_dim": 64}}  # fmt: skip
    model = build({"model_type": "moondream3", "text_config": text})
    assert [block.mlp.kind for block in model.layers() if block.mlp] == ["dense"] * 3 + ["moe"]
    assert model.max_context == 512


def test_experts_may_work_in_a_width_of_their_own() -> None:
    moe = {**NEW, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    own = build({**moe, "routed_expert_hidden_size": 128})
    fewer = parameter_count(build(moe)) - parameter_count(own)
    assert fewer == 4 * (4 * 3 * 64 * 128 - 2 * 256 * 128)
