"""Blocks that vLLM's kernels of keys and values read (``tests/golden/test_vllm_kernels.py``)."""

from __future__ import annotations

import pytest

from kvplan.sizing.capacity import fit_model
from kvplan.sizing.flags import engine_flags
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.huggingface import import_config


def block(model: str, gpu: str, version: str = "0.33", **options: object) -> int:
    return fit_model(
        load_model(model), load_gpu(gpu), version=version, max_model_len=4096, **options
    ).block_size  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "gpu", "version", "tokens"),
    [
        ("gemma-3-4b", "b200", "0.33", 64), ("gemma-3-4b", "b300", "0.30", 64), ("gemma-3-4b", "b200", "0.29", 16),
        ("gemma-3-4b", "h100-sxm", "0.33", 16), ("gemma-3-4b", "rtx-pro-6000", "0.33", 16),
        ("gemma-3-4b", "jetson-agx-thor", "0.33", 16), ("gemma-3-27b", "b200", "0.33", 16),
        ("gemma-3-1b", "b200", "0.33", 16), ("gemma-4-31b", "b200", "0.33", 64), ("gemma-4-e2b", "b200", "0.33", 16),
        ("gpt-oss-20b", "b200", "0.33", 16),
    ],
)  # fmt: skip
def test_two_kernels_share_blocks_where_images_attend_to_themselves(
    model: str, gpu: str, version: str, tokens: int
) -> None:
    """Not where heads have 128 dimensions (Gemma 3 27B), nor without images (Gemma 3 1B)."""
    assert block(model, gpu, version) == tokens


def test_a_block_that_is_asked_for_is_kept() -> None:
    assert block("gemma-3-4b", "b200", block_size=16) == 16
    assert block("gemma-3-4b", "b200", block_size=128) == 128


def test_what_kernels_cannot_read_together_is_left_to_one() -> None:
    assert block("gemma-3-4b", "b200", kv_dtype="fp8") == 64
    assert block("gemma-3-4b", "b200", kv_dtype="int8_per_token_head") == 16
    assert block("gemma-3-4b", "b200", weights_dtype="fp32") == 16


@pytest.mark.parametrize(
    ("model", "form", "version", "tokens"),
    [
        ("gemma-4-31b", "fp8", "0.33", 64), ("gemma-4-e2b", "fp8", "0.33", 64), ("gemma-4-e2b", "fp8", "0.30", 16),
        ("gemma-4-31b", None, "0.33", 16), ("gemma-3-4b", "fp8", "0.33", 16),
    ],
)  # fmt: skip
def test_wide_heads_in_fp8_are_read_in_tiles_on_hopper(
    model: str, form: str | None, version: str, tokens: int
) -> None:
    assert block(model, "h100-sxm", version, kv_dtype=form) == tokens


@pytest.mark.parametrize(
    ("gpu", "version", "tokens"),
    [("l40s", "0.33", 2496), ("l40s", "0.21", 2048), ("a100-80g", "0.33", 2496), ("h100-sxm", "0.33", 8192)],
)
def test_a_step_holds_a_video_whole_where_its_tokens_attend_to_one_another(
    gpu: str, version: str, tokens: int
) -> None:
    """As vLLM's start-up settled it: 32 frames of 70 tokens and eight around each."""

    def step(model: str, **options: int) -> int:
        report = fit_model(
            load_model(model), load_gpu(gpu), version=version, max_model_len=4096, **options
        )  # fmt: skip
        return report.serving.max_num_batched_tokens

    assert step("gemma-4-31b") == tokens
    assert step("gemma-4-31b", max_num_batched_tokens=1024) == 1024
    assert step("gemma-4-e2b") == min(tokens, 8192 if gpu == "h100-sxm" else 2048)


def test_gemma_4_has_one_kernel_for_both_widths() -> None:
    """Triton's where FlashAttention 4 is not built, which reads no fp8 on Ampere."""
    for gpu, runs in (("a100-80g", False), ("l40s", True), ("h100-sxm", True)):
        report = fit_model(load_model("gemma-4-e2b"), load_gpu(gpu), kv_dtype="fp8", max_model_len=4096)
        assert (engine_flags(report)["vllm"] is not None) is runs


def test_states_that_may_turn_round_are_not_left_on_the_way() -> None:
    """OLMo Hybrid's layer: blocks on Hopper keep to no grid of 64 tokens."""
    fields = {
        **TEXT, "model_type": "olmo_hybrid", "layer_types": ["linear_attention", "full_attention"],
        "linear_conv_kernel_dim": 4,
    }  # fmt: skip
    found = {}
    for turns in (True, False):
        said = {**fields, "linear_allow_neg_eigval": turns}
        model = import_config(said, "config.json", name="x").model
        report = fit_model(model, load_gpu("h100-sxm"), max_model_len=4096)
        found[turns] = report.block_size
    assert found[False] % 64 == 0
    assert found[True] < found[False]


TEXT = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 256, "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 4096,
}  # fmt: skip
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "said", "tower", "prefixes"),
    [
        ("gemma3", {}, True, True), ("gemma4", {}, True, False),
        ("gemma4", {"use_bidirectional_attention": "vision"}, True, True),
        ("gemma4_text", {"use_bidirectional_attention": "vision"}, False, False), ("llava", {}, True, False),
    ],
)  # fmt: skip
def test_which_configurations_have_images_that_attend_to_themselves(
    kind: str, said: dict[str, str], tower: bool, prefixes: bool
) -> None:
    text = {
        **TEXT,
        **said,
        "model_type": "llama" if kind == "llava" else kind.removesuffix("_text") + "_text",
    }
    found = {"model_type": kind, "text_config": text, "vision_config": TOWER} if tower else text
    assert import_config(found, "config.json", name="x").model.image_prefixes is prefixes


def test_which_configurations_have_sinks() -> None:
    plain = {"model_type": "llama", **TEXT}
    for said, sinks in (
        ({"model_type": "gpt_oss", "sliding_window": 128}, {True}), ({}, {False}),
        ({"model_type": "granite", "attention_sinks": True}, {True}), ({"model_type": "granite"}, {False}),
        ({"add_full_attention_sink_bias": True}, {True}), ({"add_swa_attention_sink_bias": True}, {False}),
    ):  # fmt: skip
        model = import_config({**plain, **said}, "config.json", name="x").model
        assert {block.attention.sinks for block in model.layers()} == sinks  # type: ignore[union-attr]
