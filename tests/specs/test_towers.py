"""Towers beside the language model: counted as far as they say, and never a reason to refuse a model."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config
from kvplan.specs.huggingface.reader import Imported

TEXT: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000,
    "max_position_embeddings": 4096,
}  # fmt: skip
PLAIN = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 256}
CONFORMER = {"hidden_dim": 64, "num_layers": 3, "feedforward_mult": 4, "conv_expansion_factor": 2}


def read(**sections: Any) -> Imported:
    return import_config(
        {"model_type": "some_vl", "text_config": TEXT, **sections}, "config.json", name="test"
    )


def added(imported: Imported) -> int:
    return parameter_count(imported.model) - parameter_count(read().model)


@pytest.mark.parametrize(
    ("section", "layer"),
    [
        (PLAIN, 4 * 64 * 64 + 2 * 64 * 256),
        ({**PLAIN, "hidden_act": "silu"}, 4 * 64 * 64 + 3 * 64 * 256),
        # Qwen2-VL: hidden_size is the width of what the tower hands over.
        ({"depth": 3, "embed_dim": 64, "hidden_size": 512, "mlp_ratio": 4}, 4 * 64 * 64 + 2 * 64 * 256),
        ({**PLAIN, "image_size": [448, 448], "patch_size": [14, 14]}, 4 * 64 * 64 + 2 * 64 * 256),
    ],
)
def test_vision(section: dict[str, Any], layer: int) -> None:
    assert added(read(vision_config=section)) == 3 * layer
    # Qwen2.5-Omni keeps its towers beside the text configuration, one level down.
    inner = import_config(
        {"model_type": "omni", "thinker_config": {"text_config": TEXT, "vision_config": section}},
        "x",
        name="x",
    )
    assert added(inner) == 3 * layer


def test_blocks_of_glm_are_as_wide_as_their_output_and_the_width_is_the_mergers() -> None:
    section = {**PLAIN, "model_type": "glm4v", "out_hidden_size": 512, "spatial_merge_size": 2}
    blocks = 3 * (4 * 64 * 64 + 3 * 64 * 512)
    assert added(read(vision_config=section)) == blocks + 512 * 512 + 3 * 512 * 256 + 2 * 512 + 257 * 512


def test_mergers_of_qwen_are_square_and_one_stands_behind_every_tap() -> None:
    section = {**PLAIN, "model_type": "qwen3_vl", "out_hidden_size": 512, "spatial_merge_size": 2}
    plain, merged = added(read(vision_config=PLAIN)), 4 * 64
    once = (merged + 1) * (merged + 512)
    assert added(read(vision_config=section)) == plain + once + 2 * 64
    tapped = {**section, "deepstack_visual_indexes": [0, 1]}
    assert added(read(vision_config=tapped)) == plain + 3 * once + 2 * 64 + 2 * 2 * merged
    # Qwen2-VL names its own width apart from the one it hands over.
    old = {"depth": 3, "embed_dim": 64, "hidden_size": 512, "mlp_ratio": 4, "model_type": "qwen2_vl"}
    assert added(read(vision_config=old)) == plain + once + 2 * 64


@pytest.mark.parametrize(
    ("key", "section", "layer"),
    [
        ("audio_config", PLAIN, 4 * 64 * 64 + 2 * 64 * 256),
        (
            "audio_config",
            {"d_model": 64, "encoder_layers": 3, "encoder_ffn_dim": 256},
            4 * 64**2 + 2 * 64 * 256,
        ),
        # Conformers have two feed-forward parts, and pointwise convolutions three times as wide as they expand.
        ("encoder_config", CONFORMER, 4 * 64 * 64 + 2 * 2 * 64 * 256 + 3 * 2 * 64 * 64),
        (
            "audio_processor",
            {"config": {"attention_dim": 64, "num_blocks": 3, "linear_units": 96, "activation": "swish"}},
            4 * 64 * 64 + 2 * 3 * 64 * 96 + 3 * 64 * 64,
        ),
    ],
)
def test_sound(key: str, section: dict[str, Any], layer: int) -> None:
    imported = read(**{key: section})
    assert added(imported) == 3 * layer
    assert not imported.warnings


@pytest.mark.parametrize(
    "sections",
    [
        {"vision_config": {"hidden_size": 2048, "architecture": "mobilenet"}},
        {"vision_config": [24, 1024]},
        {"vision_config": "someone/a-tower-of-their-own"},
        {"vision_config": {"width": {"clip": {"layers": 24}}}},
        {"vision_config": {**PLAIN, "intermediate_size": None, "mlp_ratio": float("nan")}},
        {"vision_config": {**PLAIN, "num_attention_heads": "many"}},
        {"audio_config": {"hidden_size": 64}},
        {"mm_vision_tower": "someone/a-tower-of-their-own"},
        {"audio_config": {**PLAIN, "num_hidden_layers": [1, 2]}},
        {"embd_layer": {"image_embd_layer": {"crop_size": 448}}},
        {"audio_config": {**PLAIN, "hidden_size": 10**12}},
    ],
)
def test_what_cannot_be_counted_is_a_warning(sections: dict[str, Any]) -> None:
    imported = read(**sections)
    assert added(imported) == 0
    assert any("counted" in text for text in imported.warnings)


def test_a_tower_that_hears_as_it_goes_is_said_to_keep_frames() -> None:
    tower = {"num_hidden_layers": 32, "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 32,
             "head_dim": 64, "sliding_window": 750}  # fmt: skip
    text = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 9,
            "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip
    found = import_config({"model_type": "x", "text_config": text, "audio_config": tower}, "c.json", name="t")
    size = 32 * 749 * 2 * 32 * 64 * 2 / 2**20
    assert any(f"750 frames, {size:,.0f} MiB" in warning for warning in found.warnings)
    silent = {key: value for key, value in tower.items() if key != "sliding_window"}
    found = import_config(
        {"model_type": "x", "text_config": text, "audio_config": silent}, "c.json", name="t"
    )
    assert not any("frames" in warning for warning in found.warnings)
