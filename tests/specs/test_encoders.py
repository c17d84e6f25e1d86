"""Encoders with sections of their own, and which decoders attend to one at all."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config
from kvplan.specs.model import ModelSpec

PARSE: dict[str, Any] = {
    "architectures": ["NemotronParseForConditionalGeneration"], "model_type": "nemotron_parse",
    "is_encoder_decoder": True, "image_size": [2048, 1648], "tie_word_embeddings": False,
    "encoder": {"patch_size": 16, "args": {"model": "vit_huge_patch16_224"}},
    "decoder": {
        "model_type": "nemotron_parse_text", "d_model": 1024, "decoder_layers": 10, "decoder_attention_heads": 16,
        "decoder_ffn_dim": 4096, "encoder_layers": 12, "encoder_attention_heads": 16, "vocab_size": 52352,
        "is_encoder_decoder": False,
    },
}  # fmt: skip
DIA: dict[str, Any] = {
    "architectures": ["DiaForConditionalGeneration"], "model_type": "dia", "is_encoder_decoder": True,
    "encoder_config": {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256},
    "decoder_config": {
        "model_type": "dia_decoder", "num_hidden_layers": 6, "hidden_size": 128, "intermediate_size": 256,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "cross_num_attention_heads": 8,
        "cross_num_key_value_heads": 8, "cross_head_dim": 32, "vocab_size": 100,
    },
}  # fmt: skip
BART: dict[str, Any] = {
    "model_type": "bart", "d_model": 64, "decoder_layers": 2, "encoder_layers": 2, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "decoder_ffn_dim": 128, "encoder_ffn_dim": 128, "vocab_size": 100,
    "max_position_embeddings": 64,
}  # fmt: skip


def build(config: dict[str, Any]) -> ModelSpec:
    return import_config(config, "config.json", name="test").model


def test_nemotron_parse_joins_four_patches_and_adds_a_summary() -> None:
    model = build(PARSE)
    assert model.encoder is not None
    assert (model.encoder.max_tokens, model.encoder.fixed_length) == (128 * (103 // 4) + 1, True)
    report = size_model(model, context_tokens=100, retention="ideal")
    assert report.kv_bytes_per_sequence == 10 * 2 * 1024 * 2 * (100 + 3201)
    assert parameter_count(model) == pytest.approx(0.9e9, rel=0.03)  # 885M, as published


def test_cross_attention_has_heads_of_its_own() -> None:
    report = size_model(build(DIA), context_tokens=10, encoder_tokens=7, retention="ideal")
    assert report.kv_bytes_per_sequence == 6 * (2 * 2 * 16 * 2 * 10 + 2 * 8 * 32 * 2 * 7)


def test_an_encoder_with_a_section_is_counted_once() -> None:
    layers = DIA["encoder_config"]["num_hidden_layers"]
    fewer = {**DIA, "encoder_config": {**DIA["encoder_config"], "num_hidden_layers": layers - 1}}
    assert parameter_count(build(DIA)) - parameter_count(build(fewer)) == 4 * 64 * 64 + 2 * 64 * 256


def test_conformers_have_two_feed_forward_parts_a_convolution_and_positions() -> None:
    def count(layers: int) -> int:
        parakeet = {"num_hidden_layers": layers, "hidden_size": 64, "intermediate_size": 256, "hidden_act": "silu",
                    "num_attention_heads": 4, "convolution_bias": True, "conv_kernel_size": 9}  # fmt: skip
        return parameter_count(build({**DIA, "encoder_config": parakeet}))

    assert count(3) - count(2) == (5 + 2 * 2 * 4 + 3) * 64 * 64


@pytest.mark.parametrize(
    ("fields", "crosses"),
    [
        ({}, True),
        ({"architectures": ["BartForConditionalGeneration"]}, True),
        ({"architectures": ["BartForCausalLM"]}, False),
        ({"architectures": ["BartForCausalLM"], "is_encoder_decoder": True}, True),
        ({"is_encoder_decoder": False}, False),
        ({"model_type": "brand_new", "is_encoder_decoder": True}, True),
    ],
)
def test_a_decoder_alone_attends_to_no_encoder(fields: dict[str, Any], crosses: bool) -> None:
    layers = build({**BART, **fields}).layers()
    assert [block.cross is not None for block in layers] == [crosses] * 2
    assert {block.attention.kv_heads for block in layers if block.attention} == {4}  # type: ignore[union-attr]


def test_t5_lineage_has_no_kv_heads() -> None:
    new = {"model_type": "brand_new", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 2,
           "vocab_size": 100, "is_encoder_decoder": True, "feed_forward_proj": "gated-gelu"}  # fmt: skip
    report = size_model(build(new), context_tokens=8, encoder_tokens=4, retention="ideal")
    assert report.kv_bytes_per_sequence == 2 * 2 * 4 * 16 * 2 * (8 + 4)


@pytest.mark.parametrize("odd", [["x"], {}, 7, True, None])
def test_an_odd_name_of_a_model_is_no_crash(odd: object) -> None:
    model = build({**PARSE, "model_type": odd})
    assert model.encoder is not None
    assert model.encoder.max_tokens == 128 * 103 + 1


def test_an_encoder_in_stages_is_not_counted_and_refuses_nothing() -> None:
    donut = {
        "architectures": ["VisionEncoderDecoderModel"], "model_type": "vision-encoder-decoder", "is_encoder_decoder": True,
        "decoder": {"model_type": "mbart", "add_cross_attention": True, "d_model": 1024, "decoder_attention_heads": 16,
                    "decoder_ffn_dim": 4096, "decoder_layers": 4, "encoder_layers": 12, "is_decoder": True,
                    "max_position_embeddings": 768, "vocab_size": 57532},
        "encoder": {"model_type": "donut-swin", "depths": [2, 2, 14, 2], "embed_dim": 128, "hidden_size": 1024,
                    "image_size": [1280, 960], "num_heads": [4, 8, 16, 32], "num_layers": 4, "patch_size": 4},
    }  # fmt: skip
    model = import_config(donut, "config.json", name="donut").model
    assert model.encoder is not None
    assert model.encoder.max_tokens == 40 * 30
    assert size_model(model, context_tokens=64).kv_bytes_per_token == 4 * 2 * 1024 * 2


def test_words_and_projections_that_only_an_encoder_has() -> None:
    # Both as transformers 5.23 counts them with the defaults of its classes.
    half = {
        "model_type": "t5_gemma_module", "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096,
    }  # fmt: skip
    gemma = {"architectures": ["T5GemmaForConditionalGeneration"], "model_type": "t5gemma", "encoder": half,
             "decoder": {**half, "cross_attention_hidden_size": 2304}, "tie_word_embeddings": True}  # fmt: skip
    assert parameter_count(import_config(gemma, "x", name="x").model) == pytest.approx(
        5_596_853_760, rel=0.001
    )
    led = {
        "architectures": ["LEDForConditionalGeneration"], "model_type": "led", "d_model": 1024, "encoder_layers": 12,
        "decoder_layers": 12, "encoder_attention_heads": 16, "decoder_attention_heads": 16, "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096, "max_decoder_position_embeddings": 1024, "max_encoder_position_embeddings": 16384,
        "vocab_size": 50265, "is_encoder_decoder": True,
    }  # fmt: skip
    assert parameter_count(import_config(led, "x", name="x").model) == pytest.approx(459_801_600, rel=0.002)
