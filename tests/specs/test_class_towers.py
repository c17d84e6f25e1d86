"""Towers of which a file says nothing, or little: the class fills them in, as engines do that read it."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface.reader import Imported, import_config

TEXT = {
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000,
}  # fmt: skip
GEMMA = {"model_type": "gemma3", "text_config": {**TEXT, "model_type": "gemma3_text"}}
QWEN = {"model_type": "qwen3_vl", "text_config": {**TEXT, "model_type": "qwen3_vl_text"}}
SIGLIP = {
    "model_type": "siglip_vision_model", "num_hidden_layers": 12, "hidden_size": 768,
    "intermediate_size": 3072, "num_attention_heads": 12, "patch_size": 16, "image_size": 224,
}  # fmt: skip
WRITTEN = {
    "model_type": "qwen3_vl", "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
    "patch_size": 16, "spatial_merge_size": 2, "out_hidden_size": 3584, "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip


def read(whole: dict[str, Any], **more: Any) -> Imported:
    architectures = [f"{whole['model_type']}ForConditionalGeneration"]
    return import_config({"architectures": architectures, **whole, **more}, "config.json", name="t")


def tower(whole: dict[str, Any], **more: Any) -> int:
    model = read(whole, **more).model
    return 0 if model.vision is None else model.vision.parameters


@pytest.mark.parametrize(("whole", "section"), [(GEMMA, SIGLIP), (QWEN, WRITTEN)])
def test_what_a_file_leaves_out_its_class_says(whole: dict[str, Any], section: dict[str, Any]) -> None:
    given = tower(whole, vision_config=section)
    assert given > 80e6
    for left in ({}, {"model_type": section["model_type"]}, None):
        assert tower(whole, vision_config=left) == given
    assert tower(whole) == given


def test_what_a_file_says_stands() -> None:
    layers = tower(GEMMA, vision_config=SIGLIP) - tower(
        GEMMA, vision_config={**SIGLIP, "num_hidden_layers": 11}
    )
    assert tower(GEMMA, vision_config={"num_hidden_layers": 11}) == tower(GEMMA) - layers
    # another name of the same field: the class's own is not missing
    assert tower(GEMMA, vision_config={"num_layers": 11}) == tower(GEMMA) - layers


def test_a_text_model_of_the_family_has_no_tower() -> None:
    assert tower({**GEMMA, "architectures": ["Gemma3ForCausalLM"]}) == 0
    assert tower(GEMMA["text_config"]) == 0


def test_a_tower_of_another_class_is_not_completed() -> None:
    found = read(GEMMA, vision_config={"model_type": "a-tower-of-its-own"})
    assert found.model.vision is None
    assert any("vision tower" in warning for warning in found.warnings)


def test_sounds_of_a_class() -> None:
    audio = {"model_type": "qwen2_audio", "text_config": {**TEXT, "model_type": "qwen2"}}
    assert parameter_count(read(audio).model) - parameter_count(read(audio["text_config"]).model) > 600e6


def test_experts_for_images_come_with_the_tower() -> None:
    text = {
        **TEXT, "model_type": "ernie4_5_vl_moe_text", "moe_num_experts": 8, "moe_k": 2,
        "moe_intermediate_size": [256, 128], "mlp_layer_types": ["dense", *["sparse"] * 5],
    }  # fmt: skip
    ernie = {"model_type": "ernie4_5_vl_moe", "text_config": text}
    for more in ({}, {"vision_config": {"depth": 2, "hidden_size": 64}}):
        assert [part.name for part in read(ernie, **more).model.extra_weights] == ["experts for images"]
