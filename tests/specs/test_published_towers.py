"""Models that see have as many parameters as their checkpoints are published with, to the last one.

The number of GLM-4.1V is that of transformers' class as it is by default.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config

QWEN_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "max_position_embeddings": 4096,
}  # fmt: skip
SO400M = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27,
    "patch_size": 14,
}  # fmt: skip
GEMMA_3 = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "mm_tokens_per_image": 256,
    "vision_config": {**SO400M, "model_type": "siglip_vision_model", "image_size": 896, "vision_use_head": False},
}  # fmt: skip
LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
    "patch_size": 14,
}  # fmt: skip


def gemma_3(hidden: int, width: int, layers: int, heads: int, groups: int, dim: int) -> dict[str, Any]:
    text = {
        "model_type": "gemma3_text", "hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": dim, "sliding_window": 1024,
    }  # fmt: skip
    return {**GEMMA_3, "text_config": text}


PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "Qwen2-VL-7B": (8_291_375_616, {
        **QWEN_7B, "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl",
        "vision_config": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "hidden_size": 3584,
                          "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}}),
    "Qwen2.5-VL-7B": (8_292_166_656, {
        **QWEN_7B, "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
        "vision_config": {"depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420,
                          "num_heads": 16, "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2,
                          "temporal_patch_size": 2}}),
    "Qwen3-VL-8B": (8_767_123_696, {
        "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "tie_word_embeddings": False,
        "text_config": {"model_type": "qwen3_vl_text", "hidden_size": 4096, "intermediate_size": 12288,
                        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
                        "head_dim": 128, "vocab_size": 151936, "attention_bias": False},
        "vision_config": {"model_type": "qwen3_vl", "depth": 27, "hidden_size": 1152, "intermediate_size": 4304,
                          "num_heads": 16, "num_position_embeddings": 2304, "out_hidden_size": 4096,
                          "patch_size": 16, "deepstack_visual_indexes": [8, 16, 24]}}),
    "Llama-3.2-11B-Vision": (10_670_220_835, {
        "architectures": ["MllamaForConditionalGeneration"], "model_type": "mllama",
        "text_config": {"model_type": "mllama_text_model", "hidden_size": 4096, "num_hidden_layers": 40,
                        "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
                        "vocab_size": 128256, "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38]},
        "vision_config": {"model_type": "mllama_vision_model", "image_size": 560}}),
    "Llama-4-Scout": (108_641_793_536, {
        "architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4",
        "text_config": {"model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192,
                        "intermediate_size_mlp": 16384, "num_hidden_layers": 48, "num_attention_heads": 40,
                        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048, "num_local_experts": 16,
                        "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "use_qk_norm": True,
                        "tie_word_embeddings": False},
        "vision_config": {"model_type": "llama4_vision_model", "hidden_size": 1408, "image_size": 336,
                          "intermediate_size": 5632, "num_attention_heads": 16, "num_hidden_layers": 34,
                          "patch_size": 14, "projector_input_dim": 4096, "projector_output_dim": 4096,
                          "vision_output_dim": 4096}}),
    "Gemma-3-4B": (4_300_079_472, gemma_3(2560, 10240, 34, 8, 4, 256)),
    "Gemma-3-12B": (12_187_325_040, gemma_3(3840, 15360, 48, 16, 8, 256)),
    "Gemma-3-27B": (27_432_406_640, gemma_3(5376, 21504, 62, 32, 16, 128)),
    "Mistral-Small-3.1-24B": (24_011_361_280, {
        "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "spatial_merge_size": 2,
        "multimodal_projector_bias": False, "vision_feature_layer": -1,
        "text_config": {"model_type": "mistral", "hidden_size": 5120, "intermediate_size": 32768,
                        "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8,
                        "head_dim": 128, "vocab_size": 131072},
        "vision_config": {**LARGE, "model_type": "pixtral", "head_dim": 64, "image_size": 1540}}),
    "InternVL3-8B": (7_944_373_760, {
        "architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "downsample_ratio": 0.5,
        "llm_config": {**QWEN_7B, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"],
                       "vocab_size": 151674},
        "vision_config": {**LARGE, "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b",
                          "image_size": 448, "norm_type": "layer_norm", "qkv_bias": True}}),
    "LLaVA-1.5-7B": (7_063_427_072, {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": LLAMA_7B,
        "vision_feature_layer": -2, "vision_config": {**LARGE, "model_type": "clip_vision_model", "image_size": 336}}),
    "Idefics2-8B": (8_402_768_112, {
        "architectures": ["Idefics2ForConditionalGeneration"], "model_type": "idefics2",
        "tie_word_embeddings": False, "perceiver_config": {"model_type": "idefics2"},
        "text_config": {"model_type": "mistral", "max_position_embeddings": 32768, "num_key_value_heads": 8,
                        "intermediate_size": 14336, "vocab_size": 32003},
        "vision_config": {**SO400M, "model_type": "idefics2", "image_size": 980}}),
    "GLM-4.1V-9B": (10_292_777_472, {
        "architectures": ["Glm4vForConditionalGeneration"], "model_type": "glm4v"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    parameters, config = PUBLISHED[name]
    imported = import_config(config, "config.json", name="published")
    assert parameter_count(imported.model) == parameters
