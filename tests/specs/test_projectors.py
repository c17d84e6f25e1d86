"""What stands between towers and language models, and towers that files describe in other ways."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.sizing.weights import parameter_count, stage_weights
from kvplan.specs.huggingface import import_config
from kvplan.specs.huggingface.reader import Imported

TEXT: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000,
    "max_position_embeddings": 4096,
}  # fmt: skip
TOWER = {"model_type": "some_vit", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 256}
BLOCKS = 3 * (4 * 64 * 64 + 2 * 64 * 256)
LARGE = 24 * (4 * 1024**2 + 2 * 1024 * 4096)


def read(**sections: Any) -> Imported:
    return import_config({"model_type": "some_vl", "text_config": TEXT, **sections}, "c.json", name="t")


def added(imported: Imported) -> int:
    return parameter_count(imported.model) - parameter_count(read().model)


@pytest.mark.parametrize(
    ("whole", "between"),
    [
        ({"model_type": "llava"}, 65 * 512 + 513 * 512),
        ({"model_type": "llava_next", "vision_feature_layer": [-24, -20, -12, -1]}, 257 * 512 + 514 * 512),
        ({"model_type": "llava_onevision", "vision_feature_layer": -1}, 65 * 512 + 514 * 512),
        ({"model_type": "mistral3", "spatial_merge_size": 2}, 4 * 64 * 64 + 64 + 64 * 512 + 512 * 512),
        ({"model_type": "internvl_chat", "downsample_ratio": 0.5}, 2 * 256 + 257 * 512 + 513 * 512),
        ({"model_type": "NVLM_D", "downsample_ratio": 0.5}, 256 * 1024 + 1024 * 512),
        ({"model_type": "idefics3", "scale_factor": 4}, 16 * 64 * 512),
        ({"model_type": "paligemma"}, 65 * 2048),
        ({"model_type": "aya_vision", "downsample_factor": 2, "alignment_intermediate_size": 96},
         2 * 256 + 257 * 96 + 49 * 512),
        ({"model_type": "lfm2_vl", "downsample_factor": 2, "projector_hidden_size": 96},
         2 * 256 + 257 * 96 + 97 * 512),
        ({"model_type": "minicpmv"}, 64 * 512 + 64 * 512 + 5 * 512 * 512 + 10 * 512),
        ({"model_type": "ovis2_5", "visual_vocab_size": 1000}, 1000 * 512 + 258 * 996),
        ({"model_type": "phi3_v"}, 4 * 64 * 512 + 512 * 512),
        ({"model_type": "chatglm"}, 4 * 64 * 512 + 512 * 512 + 3 * 512 * 1024),
        ({"model_type": "step3_vl"}, 4 * 64 * 4096 + 18 * 4096 * 4096 + 2 * 4096 * 512),
        ({"model_type": "step_robotics"}, 90 * 64 * 64 + 6 * 64 + 4 * 64 * 512),
        ({"model_type": "deepseek_vl_v2", "projector_config": {
            "projector_type": "downsample_mlp_gelu", "input_dim": 64, "n_embed": 512, "depth": 3, "mlp_ratio": 2,
            "downsample_ratio": 2}}, 257 * 1024 + 1025 * 1024 + 1025 * 512),
        ({"model_type": "deepseek_vl_v2", "projector_config": {
            "projector_type": "linear", "input_dim": 64, "n_embed": 512}}, 65 * 512),
    ],
)  # fmt: skip
def test_projectors(whole: dict[str, Any], between: int) -> None:
    assert added(read(vision_config=TOWER, **whole)) == BLOCKS + between


def test_patches_of_kimi_are_merged_by_a_list() -> None:
    tower = {**TOWER, "merge_kernel_size": [2, 2]}
    assert added(read(model_type="kimi_vl", vision_config=tower)) == BLOCKS + 2 * 64 + 257 * 256 + 257 * 512


def test_words_of_ovis_are_in_the_section_around_its_tower() -> None:
    section = {
        "vocab_size": 1000,
        "hidden_stride": 2,
        "backbone_config": TOWER,
        "model_type": "aimv2_visual_tokenizer",
    }
    found = read(model_type="ovis", visual_tokenizer_config=section)
    assert added(found) == BLOCKS + 1000 * 512 + 258 * 995
    assert not any("tower" in words for words in found.warnings)


@pytest.mark.parametrize(
    ("sections", "size"),
    [
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, LARGE),
        ({"img_processor": {"model_name": "openai/clip-vit-large-patch14-336", "name": "clip_vision_model"}}, LARGE),
        ({"vision_config": {"cls": "CLIPVisionTower", "params": {"model_name": "siglip_large_patch16_384"}}}, LARGE),
        ({"mm_vision_tower": "google/siglip-so400m-patch14-384"}, 27 * (4 * 1152**2 + 2 * 1152 * 4304)),
        ({"vision_config": {"width": {"clip": {"layers": 24, "width": 1024}, "sam": {"layers": 12, "width": 768}}}},
         LARGE + 12 * 12 * 768**2),
        ({"vision_config": {"encoder_config": TOWER, "sam_config": {**TOWER, "hidden_size": 32}}},
         BLOCKS + 3 * (4 * 32 * 32 + 2 * 32 * 256)),
        ({"vision_config": {"model_type": "blip_2_vision_model"}}, 985_952_256),
        ({"vision_config": {**TOWER, "num_global_layers": 1}}, 4 * BLOCKS // 3),
        ({"vision_config": {**TOWER, "num_attention_heads": 8, "num_key_value_heads": 2}},
         BLOCKS - 3 * 2 * 64 * 8 * 6),
        ({"audio_config": {**TOWER, "num_attention_heads": 8, "head_dim": 16}}, BLOCKS + 3 * 4 * 64 * 64),
        ({"multimodal": {"whisper_model_args": {"encoder_args": {"dim": 64, "n_layers": 3, "hidden_dim": 256}}}}, BLOCKS),
        ({"vision_backbone_id": "dinosiglip-vit-so-224px", "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m",
          "vit_so400m_patch14_siglip_224"]}, LARGE + 27 * (4 * 1152**2 + 2 * 1152 * 4304)),
        # Whisper's class says how wide its decoder is; its tower is as wide as the file says.
        ({"audio_config": {"model_type": "whisper", "d_model": 64, "encoder_layers": 3, "encoder_ffn_dim": 256}}, BLOCKS),
    ],
)  # fmt: skip
def test_towers_by_name_by_class_and_side_by_side(sections: dict[str, Any], size: int) -> None:
    found = read(**sections)
    assert added(found) == size
    assert not any("not counted" in words for words in found.warnings)


def test_molmo_has_a_tower_that_its_file_passes_over() -> None:
    config = {
        "architectures": ["MolmoForCausalLM"], "model_type": "molmo", "embedding_size": 152064, "hidden_size": 3584,
        "intermediate_size": 37888, "max_position_embeddings": 4096, "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "qkv_bias": True, "tie_word_embeddings": False,
        "vocab_size": 152064,
    }  # fmt: skip
    model = import_config(config, "config.json", name="molmo").model
    assert parameter_count(model) == 8_021_025_280  # Molmo-7B-D as published


def test_minicpm_v_has_no_pooling_head_and_a_resampler() -> None:
    config = {
        "architectures": ["MiniCPMV"], "model_type": "minicpmv", "hidden_size": 3584, "intermediate_size": 18944,
        "max_position_embeddings": 32768, "num_attention_heads": 28, "num_hidden_layers": 28,
        "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 151666, "query_num": 64,
        "attention_bias": True,
        "vision_config": {"hidden_size": 1152, "image_size": 980, "intermediate_size": 4304, "patch_size": 14,
                          "model_type": "siglip", "num_attention_heads": 16, "num_hidden_layers": 27},
    }  # fmt: skip
    model = import_config(config, "config.json", name="minicpm").model
    vision = parameter_count(model) - parameter_count(model.model_copy(update={"vision": None}))
    # MiniCPM-V 2.6 as published has 8,099,175,152, of which its language model (Qwen 2 with 151,666 words).
    assert vision == 8_099_175_152 - 7_612_763_648
    pooled = {**config, "vision_config": {**config["vision_config"], "model_type": "siglip_vision_model"}}  # type: ignore[dict-item]
    same = import_config(pooled, "config.json", name="minicpm").model
    assert parameter_count(same) == parameter_count(model)


def test_dots_ocr_is_gated_and_merges_as_qwen_does() -> None:
    tower = {"embed_dim": 64, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3}
    gated = 3 * (4 * 64 * 64 + 3 * 64 * 256)
    assert added(read(model_type="dots_ocr", vision_config=tower)) == gated + 2 * 64 + 257 * (256 + 64)


@pytest.mark.parametrize(
    "whole",
    [
        {"model_type": "aya_vision", "alignment_intermediate_size": "wide"},
        {"model_type": "internvl_chat", "downsample_ratio": 1e-300},
        {"model_type": "internvl_chat", "downsample_ratio": -1},
        {"model_type": "kimi_vl", "merge_kernel_size": [2, "x"]},
        {"model_type": "idefics2", "perceiver_config": {"resampler_depth": 10**12}},
        {"model_type": "ovis2_5", "visual_vocab_size": 10**12},
        {"model_type": "lfm2_vl", "projector_hidden_size": 10**15},
        {"model_type": "minicpmv4_6", "merger_times": 10**6},
        {
            "vision_config": {
                **TOWER,
                "model_type": "clip_vision_model",
                "image_size": 10**15,
                "patch_size": 14,
            }
        },
        {"vision_config": {**TOWER, "num_hidden_layers": 10**6, "hidden_size": 10**6}},
    ],
)
def test_odd_numbers_leave_the_tower_out_with_a_warning(whole: dict[str, Any]) -> None:
    found = read(**{"vision_config": TOWER, **whole})
    assert added(found) == 0
    assert any("the vision tower is not counted" in words for words in found.warnings)


def test_granite_docling_taps_its_tower_on_two_paths() -> None:
    tower = {
        "model_type": "granite_docling_vision", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "out_hidden_size": 1024, "scale_factor": 4, "use_fine_route": True,
        "deepstack_visual_indexes": [3, 7, 10],
    }  # fmt: skip
    between = added(read(model_type="granite_docling", vision_config=tower)) - 12 * 12 * 768 * 768
    assert between == 71_863_040  # as transformers 5.23 builds it


@pytest.mark.parametrize(
    ("section", "size"),
    [
        # DaViT of Florence 2 as transformers builds it: blocks 84,152,064 and convolutions 6,215,936.
        (
            {"depths": [1, 1, 9, 1], "embed_dim": [128, 256, 512, 1024], "num_heads": [4, 8, 16, 32]},
            90_368_000,
        ),
        # The encoder of Donut, a Swin with wide windows.
        ({"depths": [2, 2, 14, 2], "embed_dim": 128, "num_heads": [4, 8, 16, 32]}, 73_500_000),
    ],
)
def test_towers_of_stages(section: dict[str, Any], size: int) -> None:
    assert added(read(vision_config=section)) == pytest.approx(size, rel=0.02)


def test_video_llava_has_a_tower_for_films() -> None:
    image = added(read(model_type="llava", vision_config=TOWER))
    assert added(read(model_type="video_llava", vision_config=TOWER)) == image + BLOCKS


def test_gemma_4s_tower_is_gated_and_knows_two_positions() -> None:
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64}
    tower = {**TOWER, **heads, "model_type": "gemma4_vision", "position_embedding_size": 100}
    gated = 3 * (4 * 64 * 64 + 3 * 64 * 256)
    assert added(read(model_type="gemma4", vision_config=tower)) == gated + 2 * 100 * 64 + 64 * 512


def test_t5gemma_2_projects_both_attentions_by_the_same_matrices() -> None:
    text = {
        "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000, "sliding_window": 128,
    }  # fmt: skip
    data = {
        "model_type": "t5gemma2", "architectures": ["T5Gemma2ForConditionalGeneration"], "is_encoder_decoder": True,
        "encoder": {"text_config": {**text, "model_type": "t5gemma2_text"}, "vision_config": TOWER},
        "decoder": {**text, "model_type": "t5gemma2_decoder"},
    }  # fmt: skip
    model = import_config(data, "c.json", name="t").model
    assert all(block.cross is not None and block.cross.merged for block in model.layers())
    layer = 512 * 64 * (2 * 8 + 2 * 2) + 3 * 512 * 1024
    whole = 12 * layer + 1000 * 512 + BLOCKS + 64 * 512
    assert parameter_count(model) == pytest.approx(whole, rel=0.003)


def test_sounds_come_through_convolutions_and_a_projector() -> None:
    audio = {
        "model_type": "some_encoder",
        "d_model": 64,
        "encoder_layers": 3,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 256,
        "num_mel_bins": 8,
    }
    stem = 3 * 64 * (8 + 64)
    assert added(read(audio_config=audio)) == BLOCKS + stem
    for kind, between in (
        ("audioflamingo3", 65 * 512 + 513 * 512),
        ("glmasr", 257 * 1024 + 1025 * 512),
        ("qwen3_asr", 65 * 64 + 65 * 512),
        ("qwen2_audio", 65 * 512),
    ):
        assert added(read(model_type=kind, audio_config=audio)) == BLOCKS + stem + between
    pitched = {**audio, "downsample_hidden_size": 480}
    assert added(read(audio_config=pitched)) == BLOCKS + 480 * (18 * 480 + 64)
    found = read(model_type="ultravox", audio_config=audio, hidden_size=1024, stack_factor=8)
    assert added(found) == BLOCKS + stem + 1024 * 512 + 512 * 512


def test_step_3_projects_queries_through_a_bottleneck() -> None:
    fields = {**TEXT, "model_type": "step3_text", "share_q_dim": 96, "num_attention_groups": 2}
    narrow = import_config(fields, "c.json", name="t").model
    wide = import_config({**fields, "share_q_dim": None}, "c.json", name="t").model
    change = 512 * 96 + 96 * 512 + 96 - 512 * 512
    assert parameter_count(narrow) - parameter_count(wide) == 4 * change


@pytest.mark.parametrize(("kind", "ways"), [("gemma4", 1), ("gemma3", 4)])
def test_towers_from_transformers_are_whole_on_every_gpu(kind: str, ways: int) -> None:
    tower = {**TOWER, "model_type": f"{kind}_vision"}
    model = read(model_type=kind, vision_config=tower, text_config={**TEXT, "num_key_value_heads": 4}).model
    whole, cut = (stage_weights(model, tp=tp).by_component["vision"] for tp in (1, 4))
    assert whole == ways * cut
