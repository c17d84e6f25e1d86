"""Widths of dense feed-forward layers under all their names, and experts that go by other ones."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config
from kvplan.specs.mlp import DenseMlp, MoeMlp
from kvplan.specs.model import ModelSpec

BASE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 8, "vocab_size": 1000, "max_position_embeddings": 4096,
}  # fmt: skip
PARAMS: dict[str, Any] = {"dim": 1024, "n_layers": 2, "n_heads": 8, "n_kv_heads": 2, "vocab_size": 1000}


def build(config: dict[str, Any]) -> ModelSpec:
    return import_config(config, "config.json", name="test").model


def widths(config: dict[str, Any]) -> list[tuple[int, bool]]:
    found = []
    for block in build(config).layers():
        assert isinstance(block.mlp, DenseMlp)
        found.append((block.mlp.intermediate_size, block.mlp.gated))
    return found


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({**BASE, "intermediate_size": 4096}, (4096, True)),
        # The given width is that of gate and up-projection together.
        ({**BASE, "model_type": "qwen", "intermediate_size": 4096}, (2048, True)),
        ({**BASE, "model_type": "moshi", "ffn_dim": 4096}, (2048, True)),
        ({**BASE, "model_type": "molmo", "intermediate_size": 4096}, (2048, True)),
        ({**BASE, "model_type": "hf_olmo", "mlp_ratio": 4, "mlp_hidden_size": 5504}, (2752, True)),
        ({**BASE, "model_type": "hf_olmo", "mlp_ratio": 8}, (4096, True)),
        # Other names.
        ({**PARAMS, "hidden_dim": 3584}, (3584, True)),
        ({**PARAMS, "multiple_of": 256, "ffn_dim_multiplier": 1.3}, (3584, True)),
        ({**BASE, "model_type": "chatglm", "inner_hidden_size": 4096}, (4096, False)),
    ],
)
def test_one_width(config: dict[str, Any], expected: tuple[int, bool]) -> None:
    assert widths(config) == [expected, expected]


def test_a_multiplier_for_every_layer() -> None:
    openelm = {**BASE, "model_type": "openelm", "ffn_multipliers": [0.5, 1.6], "ffn_dim_divisor": 256}
    assert widths(openelm) == [(512, True), (1536, True)]


def test_experts_of_a_params_file() -> None:
    model = build({**PARAMS, "hidden_dim": 3584, "moe": {"num_experts": 8, "num_experts_per_tok": 2}})
    mlp = model.layers()[0].mlp
    assert isinstance(mlp, MoeMlp)
    assert (mlp.experts, mlp.experts_per_token, mlp.intermediate_size) == (8, 2, 3584)
    assert not model.tie_embeddings


def test_a_dense_layer_beside_the_experts() -> None:
    grok = {**BASE, "architectures": ["Grok1ForCausalLM"], "model_type": "git", "intermediate_size": 4096}
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 2048}
    windows = {"sliding_window_size": -1, "global_attn_every_n": 1}
    model = build({**grok, **experts, **windows, "residual_moe": True})
    mlp = model.layers()[0].mlp
    assert isinstance(mlp, MoeMlp)
    assert mlp.dense is not None
    assert (mlp.intermediate_size, mlp.dense.intermediate_size) == (2048, 4096)
    assert not mlp.dense.bias


def test_experts_for_images_are_a_second_set() -> None:
    moe = {"moe_num_experts": [64, 64], "moe_k": 6, "moe_num_shared_experts": 2, "intermediate_size": 4096}
    both = {
        "moe_intermediate_size": [1536, 512],
        "moe_layer_start_index": [1, 1],
        "vision_config": {"depth": 2},
    }
    text = {"moe_intermediate_size": 1536, "moe_layer_start_index": 1}
    config = {**BASE, **moe, "model_type": "ernie4_5_moe_vl"}
    difference = parameter_count(build({**config, **both})) - parameter_count(
        build({**config, **text, "moe_num_experts": 64})
    )
    assert difference == 64 * 1024 * (3 * 512 + 1)


def test_no_width_at_all_is_said_loudly() -> None:
    imported = import_config(BASE | {"model_type": "yi"}, "config.json", name="test")
    assert any("SIZED WITHOUT" in text for text in imported.warnings)


@pytest.mark.parametrize("value", ["wide", float("nan"), float("inf"), [None, None], -1])
def test_multipliers_that_are_no_numbers_are_refused(value: Any) -> None:
    with pytest.raises(SpecError, match="number"):
        build({**BASE, "model_type": "openelm", "ffn_multipliers": value})


def test_zamba_takes_its_shared_blocks_in_turn_and_adapts_them() -> None:
    types = ["mamba", "hybrid"] * 4
    zamba = {
        **BASE, "model_type": "zamba2", "num_hidden_layers": 8, "intermediate_size": 2048, "n_mamba_heads": 32,
        "mamba_headdim": 64, "mamba_d_state": 64, "layers_block_type": types, "adapter_rank": 16,
        "attention_head_dim": 256,
    }  # fmt: skip
    one, two = (parameter_count(build({**zamba, "num_mem_blocks": sets})) for sets in (1, 2))
    # A set: q, k and v of inputs twice as wide, o, a gated MLP, two norms.
    assert two - one == 3 * 2048 * 2048 + 2048 * 1024 + 3 * 1024 * 2048 + 2 * 1024
    wider = parameter_count(build({**zamba, "num_mem_blocks": 1, "adapter_rank": 17}))
    assert wider - one == 4 * (1024 + 2 * 2048)
