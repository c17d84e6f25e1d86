"""Models that hear and speak in codes: codecs, tables of codebooks, stacks inside a step.

Counts are of the classes of transformers 5.23 built at the sizes given, without norms, biases and scales.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config
from kvplan.specs.model import ModelSpec

MIMI: dict[str, Any] = {
    "model_type": "mimi", "hidden_size": 512, "num_filters": 64, "upsampling_ratios": [8, 6, 5, 4], "kernel_size": 7,
    "last_kernel_size": 3, "residual_kernel_size": 3, "compress": 2, "num_residual_layers": 1, "audio_channels": 1,
    "num_hidden_layers": 8, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 8,
    "head_dim": 64,
}  # fmt: skip
KYUTAI: dict[str, Any] = {
    "model_type": "kyutai_speech_to_text", "architectures": ["KyutaiSpeechToTextForConditionalGeneration"],
    "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 64,
    "ffn_dim": 11264, "vocab_size": 4001, "codebook_vocab_size": 2049, "num_codebooks": 32, "sliding_window": 375,
    "max_position_embeddings": 750, "tie_word_embeddings": False, "codec_config": MIMI,
}  # fmt: skip
STAGES = {
    "channels": 1, "kernel_size": 7, "num_filters": 32, "downsampling_ratios": [2, 2, 4, 5, 5, 8],
    "depths": [3, 3, 3, 3, 3, 3, 8], "ffn_expansion": 4,
}  # fmt: skip
TEXT = {
    "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 65536,
}  # fmt: skip
T5 = {
    "model_type": "t5", "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12,
    "num_heads": 12, "feed_forward_proj": "relu",
}  # fmt: skip
ENCODEC = {
    "model_type": "encodec", "hidden_size": 128, "num_filters": 64, "upsampling_ratios": [8, 5, 4, 4],
    "kernel_size": 7, "last_kernel_size": 7, "residual_kernel_size": 3, "compress": 2, "num_lstm_layers": 2,
}  # fmt: skip
MUSICGEN: dict[str, Any] = {
    "model_type": "musicgen", "architectures": ["MusicgenForConditionalGeneration"], "is_encoder_decoder": True,
    "text_encoder": T5, "audio_encoder": ENCODEC,
    "decoder": {
        "model_type": "musicgen_decoder", "vocab_size": 2048, "max_position_embeddings": 2048, "hidden_size": 1024,
        "num_hidden_layers": 24, "ffn_dim": 4096, "num_attention_heads": 16, "num_codebooks": 4,
        "tie_word_embeddings": False,
    },
}  # fmt: skip


def read(data: dict[str, Any]) -> ModelSpec:
    return import_config(data, "config.json", name="codes").model


def extras(model: ModelSpec) -> dict[str, int]:
    return {extra.name: extra.parameters for extra in model.extra_weights}


def test_a_codec_and_a_table_for_every_codebook() -> None:
    model = read(KYUTAI)
    assert extras(model)["codebooks"] == (32 * 2049 + 1) * 2048
    assert extras(model)["codec"] == pytest.approx(38_867_232 + 39_917_089, rel=0.02)
    # Its feed-forward width is that of gate and up-projection together; the class has them apart.
    assert parameter_count(model) == pytest.approx(2_696_431_425, rel=0.003)


def test_vibevoice_hears_speaks_and_diffuses() -> None:
    data = {
        "model_type": "vibevoice", "architectures": ["VibeVoiceForConditionalGeneration"], "text_config": TEXT,
        "audio_config": {**STAGES, "model_type": "vibevoice_acoustic_tokenizer", "hidden_size": 64},
        "semantic_model_config": {**STAGES, "model_type": "vibevoice_acoustic_tokenizer_encoder", "hidden_size": 128},
        "diffusion_head_config": {
            "model_type": "vibevoice_diffusion", "latent_size": 64, "num_hidden_layers": 4, "hidden_size": 4096,
            "intermediate_size": 4608, "frequency_embedding_size": 256,
        },
    }  # fmt: skip
    found = extras(read(data))
    assert found["audio"] == pytest.approx(343_696_032 + 343_695_969, rel=0.001)
    assert found["semantic_model"] == pytest.approx(344_613_600, rel=0.001)
    assert found["diffusion_head"] == pytest.approx(496_516_608, rel=0.001)


def test_vibevoice_as_published_is_the_same_in_other_words() -> None:
    theirs = {
        "encoder_n_filters": 32, "encoder_ratios": [8, 5, 5, 4, 2, 2], "encoder_depths": "3-3-3-3-3-3-8",
        "channels": 1,
    }  # fmt: skip
    acoustic = {**theirs, "model_type": "vibevoice_acoustic_tokenizer", "vae_dim": 64}
    semantic = {**theirs, "model_type": "vibevoice_semantic_tokenizer", "vae_dim": 128}
    head = {"latent_size": 64, "head_layers": 4, "hidden_size": 1536, "head_ffn_ratio": 3.0}
    data = {
        "model_type": "vibevoice", "architectures": ["VibeVoiceForConditionalGeneration"], "decoder_config": TEXT,
        "acoustic_tokenizer_config": acoustic, "semantic_tokenizer_config": semantic, "diffusion_head_config": head,
    }  # fmt: skip
    model = read({**data, "tie_word_embeddings": True})
    assert parameter_count(model) == pytest.approx(2.70e9, rel=0.01)  # VibeVoice-1.5B's files


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upsampling_ratios": [8, "x"]}, "expected a list of whole numbers"),
        ({"upsampling_ratios": [2] * 99}, "expected a list of whole numbers"),
        ({"num_filters": "many"}, "expected a whole number"),
        ({"depths": [1], "upsampling_ratios": [2, 2]}, "1 stages contradict 2 strides"),
    ],
)
def test_an_odd_codec_is_a_warning(change: dict[str, Any], words: str) -> None:
    imported = import_config({**KYUTAI, "codec_config": {**MIMI, **change}}, "config.json", name="codes")
    assert any(words in warning and "codec_config" in warning for warning in imported.warnings)


def test_musicgen_attends_to_a_text() -> None:
    model = read(MUSICGEN)
    assert model.encoder is not None
    assert model.encoder.layers == 12
    assert all(block.cross is not None for block in model.layers())
    report = size_model(model, context_tokens=100, encoder_tokens=10)
    assert report.kv_bytes_per_token == 24 * 2 * 1024 * 2
    assert report.encoder_bytes_per_sequence == 24 * 10 * 2 * 1024 * 2
    found = extras(model)
    assert found["codebooks"] == (2 * 3 * 2048 + 4) * 1024
    assert found["encoder embeddings"] == 32128 * 768
    assert parameter_count(model) == pytest.approx(0.587e9, rel=0.03)  # musicgen-small's files


def test_musicgen_melody_has_what_it_reads_in_front() -> None:
    decoder = {**MUSICGEN["decoder"], "model_type": "musicgen_melody_decoder"}
    model = read({**MUSICGEN, "model_type": "musicgen_melody", "decoder": decoder})
    assert model.encoder is None
    assert not any(block.cross for block in model.layers())


def test_csm_spells_a_frame_in_a_stack_of_its_own() -> None:
    data = {
        "model_type": "csm", "architectures": ["CsmForConditionalGeneration"], "num_codebooks": 32, "vocab_size": 2051,
        "text_vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 2048,
        "depth_decoder_config": {
            "num_codebooks": 32, "vocab_size": 2051, "hidden_size": 1024, "intermediate_size": 8192,
            "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128,
        },
        "codec_config": MIMI,
    }  # fmt: skip
    model = read(data)
    assert parameter_count(model) == pytest.approx(1_632_100_161, rel=0.002)
    assert size_model(model, context_tokens=64).kv_bytes_per_token == 16 * 2 * 8 * 64 * 2


def test_higgs_audio_has_feed_forward_layers_of_sound_and_no_head_for_words() -> None:
    data = {
        "model_type": "higgs_audio_v2", "architectures": ["HiggsAudioV2ForConditionalGeneration"],
        "vocab_size": 128256, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
        "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 2048,
        "num_codebooks": 8, "codebook_size": 1024, "tie_word_embeddings": False,
    }  # fmt: skip
    assert parameter_count(read(data)) == pytest.approx(5_377_182_720, rel=0.001)


def test_mimo_audio_keeps_its_large_stack_alone() -> None:
    data = {
        **TEXT, "architectures": ["MiMoAudioModel"], "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151680, "tie_word_embeddings": False, "speech_vocab_size": "1025-1025-129-129-129-129-129-129",
        "delay_pattern": "0-1-2-3-4-5-6-7", "group_size": 4, "local_dim": 1024, "local_layers": 16,
        "local_attn_heads": 64, "local_ffn_dim": 4096, "input_local_layers": 6, "input_local_dim": 1024,
        "input_full_attention": True,
    }  # fmt: skip
    imported = import_config(data, "config.json", name="codes")
    assert not any("not known to have" in warning for warning in imported.warnings)
    assert size_model(imported.model, context_tokens=64).kv_bytes_per_token == 36 * 2 * 8 * 128 * 2
    stacks = 22 * (4 * 1024 + 3 * 4096) * 1024 + 5 * 4096 * 1024
    assert extras(imported.model)["local stacks"] == stacks


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("xlnet", "no K and V"),
        ("bark", "three models"),
        ("musespark1x_text", "drafts for Muse Spark"),
        ("pi0", "actions"),
    ],
)
def test_what_keeps_no_kv_cache_is_refused_with_the_reason(model_type: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        read({**TEXT, "model_type": model_type, "architectures": ["Some"]})
