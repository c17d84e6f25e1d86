"""Weights beside the decoder's layers that follow a rule: narrow embeddings, encoders' experts, Q-Formers."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.weights import parameter_count
from kvplan.specs.dump import model_yaml
from kvplan.specs.huggingface import import_config
from kvplan.specs.model import ModelSpec

OPT: dict[str, Any] = {
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 1024, "ffn_dim": 4096,
    "num_hidden_layers": 24, "num_attention_heads": 16, "max_position_embeddings": 2048, "vocab_size": 50272,
}  # fmt: skip


def build(config: dict[str, Any]) -> ModelSpec:
    return import_config(config, "config.json", name="test").model


def test_narrow_embeddings_are_projected_in_and_out() -> None:
    wide, narrow = build(OPT), build({**OPT, "word_embed_proj_dim": 512})
    assert narrow.embedding_size == 512
    assert "embedding_size: 512" in model_yaml(narrow)
    assert parameter_count(wide) - parameter_count(narrow) == 50272 * 512 - 2 * 1024 * 512
    # OPT-350m as published (transformers counts 331,196,416 without the unused final norm).
    assert parameter_count(narrow) == pytest.approx(331_196_416, rel=0.001)


def test_embeddings_as_wide_as_the_hidden_state_are_not_projected() -> None:
    model = build({**OPT, "word_embed_proj_dim": 1024})
    assert model.embedding_size is None
    assert parameter_count(model) == parameter_count(build(OPT))


NLLB: dict[str, Any] = {
    "architectures": ["NllbMoeForConditionalGeneration"], "model_type": "nllb-moe", "d_model": 64,
    "encoder_layers": 8, "decoder_layers": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_experts": 16,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 1000,
    "max_position_embeddings": 128,
}  # fmt: skip


@pytest.mark.parametrize(("step", "sparse"), [(4, 2), (2, 4), (3, 2), (0, 0)])
def test_every_so_many_encoder_layers_have_experts(step: int, sparse: int) -> None:
    dense, moe = build({**NLLB, "encoder_sparse_step": 0}), build({**NLLB, "encoder_sparse_step": step})
    one = 2 * 64 * 128
    router = 16 * 64
    more = parameter_count(moe) - parameter_count(dense)
    assert more == pytest.approx(sparse * (15 * one + router), rel=0.02)


def test_switch_transformers_gives_the_number_of_sparse_layers() -> None:
    switch = {
        "model_type": "switch_transformers", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4,
        "num_layers": 6, "num_decoder_layers": 4, "num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 2,
        "num_experts": 8, "vocab_size": 1000,
    }  # fmt: skip
    model = build(switch)
    assert model.encoder is not None
    assert model.encoder.expert_layers == 3
    assert [block.mlp.kind for block in model.layers() if block.mlp] == ["dense", "moe"] * 2


QFORMER: dict[str, Any] = {
    "model_type": "blip_2_qformer", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 128, "cross_attention_frequency": 2, "encoder_hidden_size": 96, "vocab_size": 500,
    "max_position_embeddings": 32,
}  # fmt: skip
BLIP: dict[str, Any] = {
    "architectures": ["Blip2ForConditionalGeneration"], "model_type": "blip-2", "num_query_tokens": 8,
    "text_config": OPT,
    "vision_config": {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2},
}  # fmt: skip


def _qformer_size(*, texts: bool) -> int:
    own = 4 * 64 * 64 + 4 * 64
    cross = 2 * 64 * 64 + 2 * 96 * 64 + 4 * 64
    feed = 2 * 64 * 128 + 128 + 64
    norms = 2 * 64
    layers = 4 * (own + norms + (2 if texts else 1) * (feed + norms)) + 2 * (cross + norms)
    return layers + ((500 + 32) * 64 if texts else 0) + 2 * 64 + 8 * 64 + 64 * 1024 + 1024


@pytest.mark.parametrize("section", ["qformer_config", "projector_config"])
@pytest.mark.parametrize("texts", [False, True])
def test_a_q_former_is_counted(section: str, texts: bool) -> None:
    qformer = {**QFORMER, "use_qformer_text_input": texts}
    more = parameter_count(build({**BLIP, section: qformer})) - parameter_count(build(BLIP))
    assert more == pytest.approx(_qformer_size(texts=texts), rel=0.002)


def test_a_q_former_of_instructblip_always_reads_the_instruction() -> None:
    qformer = {**QFORMER, "model_type": "instructblip_qformer"}
    more = parameter_count(build({**BLIP, "qformer_config": qformer})) - parameter_count(build(BLIP))
    assert more == pytest.approx(_qformer_size(texts=True), rel=0.002)


def test_an_impossible_q_former_is_a_warning() -> None:
    imported = import_config({**BLIP, "qformer_config": {**QFORMER, "hidden_size": "x"}}, "c.json", name="t")
    assert any("qformer" in warning and "not counted" in warning for warning in imported.warnings)


def test_an_impossible_width_of_embeddings_is_refused() -> None:
    with pytest.raises(SpecError, match="word_embed_proj_dim"):
        build({**OPT, "word_embed_proj_dim": "narrow"})


def test_the_mlp_beside_the_experts_of_arctic_is_as_wide_as_the_hidden_state() -> None:
    arctic = {
        "architectures": ["ArcticForCausalLM"], "model_type": "arctic", "hidden_size": 7168, "intermediate_size": 4864,
        "num_hidden_layers": 35, "num_attention_heads": 56, "num_key_value_heads": 8, "num_local_experts": 128,
        "num_experts_per_tok": 2, "parallel_attn_mlp_res": True, "use_residual": True, "vocab_size": 32000,
        "max_position_embeddings": 4096, "moe_layer_frequency": 1, "tie_word_embeddings": False,
    }  # fmt: skip
    with_it, without = build(arctic), build({**arctic, "use_residual": False})
    assert parameter_count(with_it) - parameter_count(without) == 35 * 3 * 7168**2
    assert parameter_count(with_it) == pytest.approx(478.6e9, rel=0.001)


def test_values_of_k2_horizon_are_a_mixture_and_attention_is_gated() -> None:
    plain = {
        "architectures": ["K2HorizonForCausalLM"], "model_type": "k2_horizon", "hidden_size": 1024, "vocab_size": 32000,
        "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4,
        "head_dim": 128, "num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 512,
        "num_shared_experts": 1, "mlp_only_layers": [0], "mova_num_experts": 0, "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
    }  # fmt: skip
    mixed = build({**plain, "mova_num_experts": 8, "mova_num_experts_per_tok": 2})
    assert parameter_count(mixed) - parameter_count(build(plain)) == 7 * (7 * 1024 * 512 + 8 * 1024)
    gated = build({**plain, "attention_gate_func": "silu"})
    assert parameter_count(gated) - parameter_count(build(plain)) == 8 * 1024 * 16 * 128
