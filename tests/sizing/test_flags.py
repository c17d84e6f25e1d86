"""A command gives the plan that it stands under, or says what it needs, or is not there."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from kvplan.sizing.capacity import FitReport, fit_model
from kvplan.sizing.flags import engine_flags, no_command
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import load_gpu, load_model


@pytest.mark.parametrize(
    ("weights", "checkpoint"),
    [(None, "<checkpoint of llama-3.1-8b>"), ("int4", "<an int4 checkpoint of llama-3.1-8b>")],
)
def test_a_model_without_an_id_has_no_name_that_an_engine_would_find(
    weights: str | None, checkpoint: str
) -> None:
    local = load_model("llama-3.1-8b").model_copy(update={"aliases": ("mine",)})
    for command in engine_flags(fit_model(local, load_gpu("h200"), weights_dtype=weights)).values():
        assert command is not None
        assert checkpoint in shlex.split(command)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(
    ("model", "weights", "checkpoint", "flag"),
    [
        ("llama-3.1-8b", None, "meta-llama/Llama-3.1-8B", ""),
        ("llama-3.1-8b", "bf16", "meta-llama/Llama-3.1-8B", ""),
        ("llama-3.1-8b", "fp16", "meta-llama/Llama-3.1-8B", "--dtype float16"),
        ("llama-3.1-8b", "fp8", "meta-llama/Llama-3.1-8B", "--quantization fp8"),
        ("llama-3.1-8b", "fp8_block128", "<an fp8_block128 checkpoint of meta-llama/Llama-3.1-8B>", ""),
        ("llama-3.1-8b", "int4", "<an int4 checkpoint of meta-llama/Llama-3.1-8B>", ""),
        ("llama-3.1-8b", "awq", "<an awq checkpoint of meta-llama/Llama-3.1-8B>", ""),
        ("llama-3.1-8b", "gptq", "<a gptq checkpoint of meta-llama/Llama-3.1-8B>", ""),
        ("deepseek-v3", "int4", "<an int4 checkpoint of deepseek-ai/DeepSeek-V3>", ""),
        ("deepseek-v3", "bf16", "<a bf16 checkpoint of deepseek-ai/DeepSeek-V3>", ""),
        ("deepseek-v3", "fp8_block128", "deepseek-ai/DeepSeek-V3", ""),
    ],
)
def test_the_checkpoint_has_the_planned_weights(
    engine: str, model: str, weights: str | None, checkpoint: str, flag: str
) -> None:
    report = fit_model(load_model(model), load_gpu("h200"), weights_dtype=weights, engine=engine)
    command = engine_flags(report)[engine]
    assert command is not None
    words = shlex.split(command)
    assert checkpoint in words
    assert " ".join(re.findall(r"--(?:dtype|quantization) \S+", command)) == flag


@pytest.mark.parametrize(("tokens", "seqs"), [(100, 100), (2048, 1024), (None, 1024)])
def test_a_small_step_lowers_the_sequences(tokens: int | None, seqs: int) -> None:
    report = fit_model(load_model("llama-3.1-8b"), load_gpu("h100"), max_num_batched_tokens=tokens)
    assert report.serving.max_num_seqs == seqs
    assert f"--max-num-seqs {seqs}" in str(engine_flags(report)["vllm"])


@pytest.mark.parametrize(
    ("engine", "tokens", "flag"),
    [
        ("vllm", None, ""),
        ("vllm", 16, "--block-size 16"),
        ("vllm", 32, "--block-size 32"),
        ("sglang", None, ""),
        ("sglang", 1, "--page-size 1"),
        ("sglang", 64, "--page-size 64"),
    ],
)
def test_blocks_of_another_size_are_asked_for(engine: str, tokens: int | None, flag: str) -> None:
    report = fit_model(load_model("llama-3.1-8b"), load_gpu("h100"), engine=engine, block_size=tokens)
    commands = engine_flags(report)
    assert " ".join(re.findall(r"--(?:block|page)-size \S+", str(commands[engine]))) == flag
    assert not re.search(r"--(?:block|page)-size", str(commands["sglang" if engine == "vllm" else "vllm"]))


@pytest.mark.parametrize(("seqs", "flag"), [(None, ""), (16, "--max-running-requests 16")])
def test_sglang_is_told_a_limit_on_requests_that_was_given(seqs: int | None, flag: str) -> None:
    report = fit_model(load_model("llama-3.1-8b"), load_gpu("h100"), engine="sglang", max_num_seqs=seqs)
    assert " ".join(re.findall(r"--max-running-requests \S+", str(engine_flags(report)["sglang"]))) == flag


def test_blocks_that_no_kernel_reads_have_no_command() -> None:
    report = fit_model(load_model("llama-3.1-8b"), load_gpu("h100"), block_size=17)
    assert engine_flags(report)["vllm"] is None
    assert no_command(report, "vllm") == (
        "vLLM has no attention kernels for blocks of 17 tokens: they take multiples of 16"
    )


def test_blocks_of_the_usual_size_are_asked_for_where_kernels_want_others() -> None:
    def reports(tokens: int | None) -> FitReport:
        return fit_model(load_model("deepseek-v2-lite"), load_gpu("b200"), block_size=tokens)

    assert reports(16).block_size != reports(None).block_size
    assert "--block-size 16" in str(engine_flags(reports(16))["vllm"])


def test_no_model_drafts_for_sglangs_ranks() -> None:
    report = fit_model(
        load_model("qwen3-30b-a3b"), load_gpu("h200"), engine="sglang", drafter=load_model("qwen3-0.6b"),
        parallel=Parallel(tp=4, attention_ranks=4), expert_parallel=True,
    )  # fmt: skip
    assert "another model drafts" in str(no_command(report, "sglang"))
    assert engine_flags(report)["sglang"] is None
    assert "--speculative-config" in str(engine_flags(report)["vllm"])
    assert "EAGLE" in str(engine_flags(report, eagle=True)["sglang"])


def test_chunks_that_split_pages_have_no_command() -> None:
    report = fit_model(
        load_model("llama-3.1-8b"), load_gpu("b200"), engine="sglang", max_num_batched_tokens=3000
    )
    assert engine_flags(report)["sglang"] is None
    assert no_command(report, "sglang") == (
        "SGLang refuses chunks of 3,000 tokens in pages of 64: it wants whole pages"
    )


def test_more_sequences_than_tokens_have_no_command() -> None:
    report = fit_model(
        load_model("llama-3.1-8b"), load_gpu("h100"), max_num_batched_tokens=100, max_num_seqs=200
    )
    assert engine_flags(report)["vllm"] is None
    assert no_command(report, "vllm") == (
        "vLLM refuses a step of 100 tokens for 200 sequences: it wants a token for each"
    )


def test_falcons_class_in_vllm_does_not_hear_of_the_cache() -> None:
    model, gpu = load_model("falcon-40b"), load_gpu("h200")
    assert no_command(fit_model(model, gpu, kv_dtype="fp8"), "vllm") == (
        "vLLM's class of falcon-40b keeps K and V in bf16, whatever it is told"
    )
    assert no_command(fit_model(model, gpu), "vllm") is None
    assert no_command(fit_model(load_model("llama-3.1-8b"), gpu, kv_dtype="fp8"), "vllm") is None


@pytest.mark.parametrize("model", ["nemotron-3-nano-30b-a3b", "nemotron-h-56b"])
def test_nemotron_wants_a_page_on_blackwell_where_nothing_runs_ahead(model: str) -> None:
    def refusal(gpu: str, version: str = "0.5.23", **more: Any) -> str | None:
        fit = fit_model(
            load_model(model),
            load_gpu(gpu),
            engine="sglang",
            parallel=Parallel(tp=2),
            version=version,
            **more,
        )
        return no_command(fit, "sglang")

    asserted = refusal("b200", async_scheduling=False)
    assert asserted is not None
    assert "--page-size 64" in asserted
    assert refusal("b200", async_scheduling=False, block_size=1) == asserted
    assert refusal("b200", async_scheduling=False, block_size=64) is None
    assert refusal("b200", async_scheduling=False, version="0.5.18") is None
    assert refusal("b200") is None
    assert refusal("h200", async_scheduling=False) is None


def test_a_cache_wider_than_the_checkpoint_asks_for_is_said() -> None:
    model = load_model("llama-3.1-8b").model_copy(update={"kv_format": "fp8_e4m3"})
    asked, wider = (
        str(engine_flags(fit_model(model, load_gpu("h100"), kv_dtype=form))["vllm"])
        for form in (None, "bf16")
    )
    assert "--kv-cache-dtype" not in asked
    assert "--kv-cache-dtype bfloat16" in wider
