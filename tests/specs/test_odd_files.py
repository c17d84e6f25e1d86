"""Files that say a thing twice, a thing per layer, or a thing under a name of their own.

What is right was read off what transformers 5.23 builds and caches from the same file, and vLLM 0.33.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count
from kvplan.specs.attention import FullAttention, LatentAttention, SlidingAttention
from kvplan.specs.huggingface import import_config
from kvplan.specs.model import ModelSpec
from kvplan.specs.state import ShortConvState

TEXT: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 1024, "vocab_size": 1000,
}  # fmt: skip
SLIDING = ["sliding_attention"] * 3 + ["full_attention"]


def build(config: dict[str, Any]) -> ModelSpec:
    return import_config(config, "config.json", name="test").model


def windows(config: dict[str, Any]) -> list[int | None]:
    layers = [block.attention for block in build(config).layers()]
    return [layer.window if isinstance(layer, SlidingAttention) else None for layer in layers]


@pytest.mark.parametrize(("outside", "inside"), [(True, False), (False, True)])
def test_the_whole_model_decides_whether_embeddings_are_tied(outside: bool, inside: bool) -> None:
    text = {**TEXT, "tie_word_embeddings": inside}
    model = build({"model_type": "llava", "tie_word_embeddings": outside, "text_config": text})
    assert model.tie_embeddings is outside


def test_a_text_section_decides_where_the_whole_model_is_silent() -> None:
    text = {**TEXT, "tie_word_embeddings": True}
    assert build({"model_type": "llava", "tie_word_embeddings": None, "text_config": text}).tie_embeddings


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_whole_model_decides_the_dtype(key: str) -> None:
    text = {**TEXT, "dtype": "bfloat16"}
    assert build({"model_type": "llava", key: "float16", "text_config": text}).dtype == "fp16"


def test_the_whole_model_decides_how_weights_are_stored() -> None:
    text = {**TEXT, "quantization_config": {"quant_method": "fp8"}}
    whole = {
        "model_type": "llava",
        "quantization_config": {"quant_method": "awq", "bits": 4},
        "text_config": text,
    }
    assert build(whole).weights.format == "int4_group128"


@pytest.mark.parametrize("around", ["muse_spark", "muse_glimmer"])
def test_a_nested_text_section_has_the_period_of_the_model_around_it(around: str) -> None:
    text = {
        **TEXT,
        "model_type": f"{around}_text",
        "num_hidden_layers": 7,
        "sliding_window": 64,
        "head_dim": 64,
    }
    # The period counts from the top: layers 2 and 6 are full.
    expected = [64, 64, None, 64, 64, 64, None]
    assert windows({"model_type": around, "text_config": text}) == expected


def test_every_sliding_layer_may_have_a_window_of_its_own() -> None:
    own = {"sliding_window": 128, "layer_types": SLIDING, "sliding_windows": [128, 256, 512, None]}
    assert windows({**TEXT, "model_type": "exaone_moe", **own}) == [128, 256, 512, None]


def test_windows_may_be_given_as_tokens_before_and_after() -> None:
    pairs = {
        "window_sizes": [[511, 0], [127, 0], [511, 0], [-1, -1]],
        "position_layers": ["rope"] * 3 + ["nope"],
    }
    assert windows({**TEXT, "model_type": "domyn_edge", **pairs}) == [512, 128, 512, None]


@pytest.mark.parametrize("pair", [[1], "512", [-2, 0], [1.5, 0], None])
def test_pairs_that_are_no_windows_are_refused(pair: Any) -> None:
    config = {**TEXT, "model_type": "domyn_edge", "window_sizes": [pair] * 4}
    with pytest.raises(SpecError, match="window_sizes"):
        build(config)


def test_what_gpt_neo_masks_it_still_keeps() -> None:
    neo = {
        "model_type": "gpt_neo", "hidden_size": 512, "num_layers": 4, "num_heads": 8, "vocab_size": 1000,
        "attention_types": [[["global", "local"], 2]], "window_size": 256,
    }  # fmt: skip
    model = build(neo)
    assert all(isinstance(block.attention, FullAttention) for block in model.layers())
    report = size_model(model, context_tokens=1000, kv="bf16", retention="transformers")
    assert report.kv_bytes_per_sequence == 4 * 2 * 512 * 1000 * 2


def test_sliding_layers_may_have_query_heads_of_their_own() -> None:
    own = {"layer_types": SLIDING, "sliding_window": 64, "num_sliding_attention_heads": 12, "head_dim": 64}
    model = build({**TEXT, "model_type": "step3p5", **own})
    assert [layer.attention.query_heads for layer in model.layers()] == [12, 12, 12, 8]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "sparse"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"moe_layer_interval": 2}, [1, 3, 5]),
        ({"moe_layer_start_index": 2, "moe_layer_end_index": 4}, [2, 3, 4]),
        # ERNIE-VL lists what holds for texts and for images.
        ({"moe_layer_start_index": [1, 1], "moe_layer_end_index": [3, 5]}, [1, 2, 3]),
    ],
)
def test_ernie_has_experts_at_an_interval(change: dict[str, Any], sparse: list[int]) -> None:
    experts = {"moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 256, "num_hidden_layers": 6}
    model = build({**TEXT, "model_type": "ernie4_5_moe", **experts, **change})
    found = [index for index, layer in enumerate(model.layers()) if layer.mlp and layer.mlp.kind == "moe"]
    assert found == sparse


def test_latents_under_the_names_of_pangu() -> None:
    pangu = {
        "attention_kv_lora_dim": 512, "attention_q_lora_dim": 256, "attention_qk_dim": 128,
        "attention_qk_rope_dim": 64, "attention_v_dim": 128,
    }  # fmt: skip
    plain = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
    attention = build({**plain, "model_type": "pangu_ultra_moe", **pangu}).layers()[0].attention
    assert isinstance(attention, LatentAttention)
    assert (attention.latent_dim, attention.q_lora_rank) == (576, 256)


def test_a_bamba_file_without_attention_layers_has_none() -> None:
    assert all(layer.attention is None for layer in build({"model_type": "bamba"}).layers())


def test_inkling_names_its_convolution_twice() -> None:
    text = {**TEXT, "model_type": "inkling_model", "local_layer_ids": [0, 1, 2], "sliding_window": 64}
    state = build({**text, "swa_num_attention_heads": 8, "sconv_kernel_size": 6}).layers()[0].state
    assert isinstance(state, ShortConvState)
    assert state.conv_kernel == 6


@pytest.mark.parametrize(("model_type", "heads"), [("internlm3", 2), ("iquestcoder", 8)])
def test_heads_left_to_the_class_are_those_of_the_class(model_type: str, heads: int) -> None:
    attention = build({"model_type": model_type}).layers()[0].attention
    assert isinstance(attention, FullAttention)
    assert (attention.kv_heads, attention.head_dim) == (heads, 128)


def test_moonshine_has_decoder_names_of_its_own() -> None:
    model = build({"model_type": "moonshine", "decoder_num_hidden_layers": 5, "encoder_num_hidden_layers": 7})
    assert model.num_layers == 5
    assert model.encoder is not None
    assert model.encoder.layers == 7


def test_a_field_that_tells_layers_apart_is_never_passed_over() -> None:
    told = {**TEXT, "model_type": "brand_new", "blends": ["minicpm4", "lightning-attn"] * 2}
    with pytest.raises(SpecError, match="blends"):
        build(told)
    found = import_config({**told, "model_type": "llama"}, "config.json", name="test")
    assert any("blends" in warning for warning in found.warnings)


def test_a_field_that_is_the_same_in_every_layer_changes_nothing() -> None:
    build({**TEXT, "model_type": "brand_new", "tags": [1, 1, 1, 1]})


def test_one_of_several_stacks_is_not_the_model() -> None:
    parts = {
        key: dict(TEXT) for key in ("patcher_config", "encoder_config", "decoder_config", "global_config")
    }
    with pytest.raises(SpecError, match="patcher_config, global_config"):
        build({"model_type": "blt", **parts})


def test_window_sizes_do_not_change_weights() -> None:
    pairs = {"window_sizes": [[511, 0]] * 4}
    assert parameter_count(build({**TEXT, **pairs})) == parameter_count(build(TEXT))


@pytest.mark.parametrize(
    "fields",
    [
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "is_causal": False},  # gte-Qwen2
        {"architectures": ["Gemma3TextModel"], "model_type": "gemma3_text", "use_bidirectional_attention": True},
        {"architectures": ["LlamaBidirectionalModel"], "model_type": "llama_bidirec"},
        {"architectures": ["Lfm2BidirectionalModel"], "model_type": "lfm2"},
    ],
)  # fmt: skip
def test_decoders_that_look_both_ways_keep_nothing(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="is an encoder"):
        build({**TEXT, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "is_causal": True},
        {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "use_bidirectional_attention": False},
        {"architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4_text", "use_bidirectional_attention": "vision"},
    ],
)  # fmt: skip
def test_decoders_that_say_that_they_look_back_are_read(fields: dict[str, Any]) -> None:
    assert build({**TEXT, **fields}).num_layers == 4


def test_prompts_of_paligemma_look_both_ways_and_are_kept() -> None:
    text = {**TEXT, "model_type": "gemma", "use_bidirectional_attention": True}
    whole = {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "text_config": text,
    }
    assert build(whole).num_layers == 4


def test_a_message_repeats_little_of_a_file() -> None:
    layers = ["x" * 100_000] * 4
    with pytest.raises(SpecError, match=r"xxx \.\.\. x") as caught:
        import_config({**TEXT, "num_hidden_layers": 4, "layer_types": layers}, "config.json", name="odd")
    assert len(str(caught.value)) < 1500
