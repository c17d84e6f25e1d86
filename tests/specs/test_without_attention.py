"""Models of states alone, and one whose upper half keeps nothing: RWKV 4 to 7, xLSTM, Phi-4-flash."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.size import SizeReport, size_model
from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import Imported, import_config

XLSTM: dict[str, Any] = {
    "architectures": ["xLSTMForCausalLM"], "model_type": "xlstm", "embedding_dim": 4096, "num_heads": 8,
    "hidden_size": 4096, "num_hidden_layers": 32, "num_blocks": 32, "qk_dim_factor": 0.5, "v_dim_factor": 1.0,
    "ffn_proj_factor": 2.667, "ffn_round_up_to_multiple_of": 64, "weight_mode": "single", "vocab_size": 50304,
    "chunkwise_kernel": "chunkwise--triton_xl_chunk", "return_last_states": True, "max_inference_chunksize": 16384,
    "tie_word_embeddings": False,
}  # fmt: skip
RWKV6: dict[str, Any] = {
    "architectures": ["Rwkv6ForCausalLM"], "model_type": "rwkv6", "attention_hidden_size": 2048, "head_size": 64,
    "head_size_divisor": 8, "hidden_size": 2048, "intermediate_size": None, "num_attention_heads": 64,
    "num_hidden_layers": 24, "rescale_every": 6, "vocab_size": 65536, "tie_word_embeddings": False,
}  # fmt: skip
RWKV7: dict[str, Any] = {
    "architectures": ["RWKV7ForCausalLM"], "model_type": "rwkv7", "attn": None, "attn_mode": "chunk", "head_dim": 64,
    "hidden_act": "sqrelu", "hidden_ratio": 4.0, "hidden_size": 2048, "num_heads": 32, "num_hidden_layers": 24,
    "a_low_rank_dim": 96, "decay_low_rank_dim": 96, "gate_low_rank_dim": 256, "v_low_rank_dim": 64,
    "vocab_size": 65536, "tie_word_embeddings": False,
}  # fmt: skip
RWKV4: dict[str, Any] = {
    "architectures": ["RwkvForCausalLM"], "model_type": "rwkv", "attention_hidden_size": 4096, "hidden_size": 4096,
    "intermediate_size": 16384, "num_hidden_layers": 32, "context_length": 1024, "vocab_size": 50277,
    "tie_word_embeddings": False,
}  # fmt: skip
PHI4_FLASH: dict[str, Any] = {
    "architectures": ["Phi4FlashForCausalLM"], "model_type": "phi4flash", "hidden_size": 2560,
    "intermediate_size": 10240, "num_attention_heads": 40, "num_key_value_heads": 20, "num_hidden_layers": 32,
    "mb_per_layer": 2, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 160,
    "sliding_window": 512, "max_position_embeddings": 262144, "vocab_size": 200064, "tie_word_embeddings": True,
}  # fmt: skip


def read(config: dict[str, Any]) -> Imported:
    return import_config(config, "config.json", name="test")


def size(config: dict[str, Any], tokens: int = 4096) -> SizeReport:
    return size_model(read(config).model, context_tokens=tokens, kv="bf16", retention="transformers")


def test_an_xlstm_layer_keeps_a_matrix_a_normaliser_and_a_maximum_per_head() -> None:
    # transformers' xLSTMCache: (8, 256, 512), (8, 256) and (8, 1) in the model's dtype.
    report = size(XLSTM)
    assert report.kv_bytes_per_sequence == 0
    assert report.state_bytes_per_sequence == 32 * (8 * 256 * 512 + 8 * 256 + 8) * 2


def test_widths_of_an_xlstm_are_rounded_up() -> None:
    odd = size(XLSTM | {"hidden_size": 4000, "embedding_dim": 4000})
    # 2,000 and 4,000 become 2,048 and 4,032 (multiples of 64) before the heads share them.
    assert odd.state_bytes_per_sequence == 32 * (8 * 256 * 504 + 8 * 257) * 2


def test_an_xlstm_may_count_its_blocks_instead_of_layers() -> None:
    counted = {key: value for key, value in XLSTM.items() if key != "num_hidden_layers"} | {"num_blocks": 24}
    assert size(counted).state_bytes_per_sequence == size(XLSTM).state_bytes_per_sequence * 24 // 32


@pytest.mark.parametrize("config", [RWKV6, RWKV7], ids=["rwkv6", "rwkv7"])
def test_rwkv_keeps_a_matrix_per_head_in_fp32_and_two_shifts(config: dict[str, Any]) -> None:
    report = size(config)
    assert report.kv_bytes_per_sequence == 0
    assert report.state_bytes_per_sequence == 24 * (32 * 64 * 64 * 4 + 2 * 2048 * 2)


@pytest.mark.parametrize(
    ("config", "millions"),
    [(XLSTM, 6865.4), (RWKV4, 7393), (RWKV6, 1600), (RWKV7, 1527), (PHI4_FLASH, 3852)],
    ids=["xlstm-7b", "rwkv-4-7b", "rwkv-6-1.6b", "rwkv-7-1.5b", "phi-4-mini-flash"],
)
def test_parameters_are_those_published(config: dict[str, Any], millions: float) -> None:
    assert parameter_count(read(config).model) / 1e6 == pytest.approx(millions, rel=0.001)


@pytest.mark.parametrize("config", [XLSTM, RWKV4, RWKV6, RWKV7, PHI4_FLASH])
def test_nothing_of_them_is_left_unread(config: dict[str, Any]) -> None:
    assert [text for text in read(config).warnings if "not known" in text] == []


def test_attention_beside_rwkv_is_refused() -> None:
    with pytest.raises(SpecError, match="attn"):
        read(RWKV7 | {"attn": {"layers": [3], "num_heads": 32}})


def test_phi_4_flash_reads_one_layer_in_its_upper_half() -> None:
    spec = read(PHI4_FLASH).model
    kinds = [
        "state" if block.state else block.attention.kind if block.attention else "gate"
        for block in spec.layers()
    ]
    assert kinds == ["state", "sliding"] * 8 + ["state", "full"] + ["gate", "shared"] * 7
    report = size(PHI4_FLASH, 32_768)
    per_token = 2 * 20 * 64 * 2
    assert report.kv_bytes_per_token == per_token
    assert report.kv_bytes_per_sequence == per_token * (32_768 + 8 * 511)
