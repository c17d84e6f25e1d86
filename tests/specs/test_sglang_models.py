"""Models that SGLang 0.5.23 alone serves: sizes are those its classes ask for."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config

JET: dict[str, Any] = {
    "architectures": ["JetNemotronForCausalLM"], "model_type": "jet_nemotron", "hidden_size": 1536,
    "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
    "vocab_size": 151936, "max_position_embeddings": 32768, "tie_word_embeddings": True,
    "layer_types": [{15: "attn", 20: "attn", 21: "swa", 22: "swa"}.get(layer, "jet") for layer in range(28)],
    "efficient_attention_config": {
        "swa": {"window_size": 1152},
        "jet": {"mode": "chunk", "expand_v": 2.0, "num_heads": 12, "head_dim": 96, "norm_eps": "1e-5", "conv_size": 4,
                "dconv_generator_reduction": 8, "dconv_implementation": "triton"},
    },
}  # fmt: skip


def test_jet_nemotron() -> None:
    model = import_config(JET, "config.json", name="jet").model
    kinds = [getattr(block.attention or block.state, "kind", "") for block in model.layers()]
    assert kinds[14:24] == [
        "gated_delta_net", "full", *["gated_delta_net"] * 4, "full", "sliding", "sliding", "gated_delta_net",
    ]  # fmt: skip
    report = size_model(model, context_tokens=65536, retention="ideal")
    assert report.kv_bytes_per_sequence == 2 * 2 * 2 * 128 * 2 * (65536 + 1152 - 1)
    # A matrix of 96 x 192 a head in fp32, and three columns of q, k and v in front of the convolution.
    kept = size_model(model, context_tokens=64, retention="sglang")
    assert kept.state_bytes_per_sequence == 24 * (12 * 96 * 192 * 4 + 3 * (12 * 96 * 2 + 12 * 192) * 2)


def test_kernels_of_jet_convolutions_are_generated() -> None:
    values = 12 * 192
    plain = {**JET["efficient_attention_config"]["jet"], "dconv_generator_reduction": 2 * 8}
    other = {**JET, "efficient_attention_config": {**JET["efficient_attention_config"], "jet": plain}}
    more = parameter_count(import_config(JET, "x", name="x").model)
    more -= parameter_count(import_config(other, "x", name="x").model)
    assert more == 24 * (values // 16) * (1536 + 4 * values)


def test_a_jet_layer_without_its_section_is_refused() -> None:
    with pytest.raises(SpecError, match="none that kvplan knows"):
        import_config({**JET, "efficient_attention_config": {"swa": {"window_size": 8}}}, "x", name="x")


PHI3_SMALL: dict[str, Any] = {
    "architectures": ["Phi3SmallForCausalLM"], "model_type": "phi3small", "attention_dropout_prob": 0.0,
    "blocksparse_block_size": 64, "blocksparse_homo_head_pattern": False, "blocksparse_num_local_blocks": 16,
    "blocksparse_triton_kernel_block_size": 64, "blocksparse_vert_stride": 8, "dense_attention_every_n_layers": 2,
    "dummy_token_indices": [100256, 100258], "embedding_dropout_prob": 0.1, "ff_dim_multiplier": None,
    "ff_intermediate_size": 14336, "ffn_dropout_prob": 0.1, "gegelu_limit": 20.0, "gegelu_pad_to_256": True,
    "hidden_act": "gegelu", "hidden_size": 4096, "layer_norm_epsilon": 1e-05, "max_position_embeddings": 8192,
    "mup_attn_multiplier": 1.0, "mup_embedding_multiplier": 10.0, "mup_use_scaling": True, "mup_width_multiplier": 8.0,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pad_sequence_to_multiple_of_64": True, "reorder_and_upcast_attn": False, "rope_embedding_base": 1000000,
    "rope_position_scale": 1.0, "vocab_size": 100352, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_phi_3_small_keeps_what_its_sparse_layers_pass_over() -> None:
    model = import_config(PHI3_SMALL, "config.json", name="phi").model
    assert size_model(model, context_tokens=64).kv_bytes_per_token == 32 * 2 * 8 * 128 * 2
    assert parameter_count(model) == pytest.approx(7_392_272_384, rel=0.001)
