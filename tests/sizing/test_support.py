"""Formats an engine cannot run on a GPU are neither suggested nor put into a command."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from kvplan.sizing.capacity import fit_model
from kvplan.sizing.fit import fit_warnings
from kvplan.sizing.flags import engine_flags, no_command
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.remedies import remedies
from kvplan.sizing.serving import EngineKind
from kvplan.sizing.stages import has_experts
from kvplan.specs.catalog import load_gpu, load_model


@pytest.mark.parametrize(
    ("gpu", "version", "weights", "runs"),
    [
        ("v100-32g", "0.33", "fp8", False),
        ("v100-32g", "0.33", "int8", False),
        ("v100-32g", "0.33", "int4", True),
        ("t4", "0.33", "fp8", True),
        ("t4", "0.14", "fp8", False),
        ("t4", "0.33", "mxfp4", False),
        ("a100-80g", "0.14", "fp8", True),
        ("a100-80g", "0.33", "nvfp4", True),
        ("h100-sxm", "0.33", "nvfp4", True),
        ("mi300x", "0.33", "fp8", True),
    ],
)
def test_weights_that_have_no_kernels_have_no_command(
    gpu: str, version: str, weights: str, runs: bool
) -> None:
    report = fit_model(
        load_model("llama-3.1-8b"), load_gpu(gpu), weights_dtype=weights, version=version, max_model_len=1024
    )
    assert (engine_flags(report)["vllm"] is not None) is runs
    reason = no_command(report, "vllm")
    assert reason is None if runs else reason is not None and f"no kernels for {weights} weights" in reason


@pytest.mark.parametrize(
    ("model", "tp", "version", "weights", "runs"),
    [
        ("qwen3-235b-a22b", 8, "0.28", "fp8_block128", False),
        ("qwen3-235b-a22b", 8, "0.29", "fp8_block128", True),
        ("qwen3-235b-a22b", 4, "0.28", "fp8_block128", True),
        ("qwen3-235b-a22b", 8, "0.28", "fp8", True),
        ("minimax-m2.5", 8, "0.28", None, False),
        ("deepseek-v3", 16, "0.28", None, True),
        ("qwen3-32b", 8, "0.28", "fp8_block128", True),
    ],
)
def test_experts_whose_tiles_are_cut_have_no_command(
    model: str, tp: int, version: str, weights: str | None, runs: bool
) -> None:
    """1,536 columns over 8 GPUs are 192 each: one and a half tiles of 128."""
    spec, gpu = load_model(model), load_gpu("h200-sxm")

    def ask(**more: Any) -> tuple[str | None, str | None]:
        report = fit_model(
            spec, gpu, parallel=Parallel(tp=tp), max_model_len=1024, weights_dtype=weights, **more
        )
        return no_command(report, "vllm"), no_command(report, "sglang")

    reason, sglang = ask(version=version)
    assert reason is None if runs else reason is not None and "192 columns: it wants whole tiles" in reason
    if has_experts(spec):
        assert ask(version=version, expert_parallel=True)[0] is None
    cut = model in ("qwen3-235b-a22b", "minimax-m2.5") and tp == 8 and weights != "fp8"
    assert (sglang is not None) is cut, "which has nothing for tiles that are cut"


def test_a_layout_that_cuts_tiles_is_not_suggested() -> None:
    for version, suggested in (("0.28", False), ("0.29", True)):
        report = fit_model(
            load_model("minimax-m2.5"), load_gpu("h100-sxm"), parallel=Parallel(tp=4), version=version
        )
        assert ("--gpus 8 --tp 8" in {way.option for way in remedies(report)}) is suggested


@pytest.mark.parametrize(
    ("model", "gpu", "form", "version", "runs"),
    [
        ("llama-3.1-8b", "t4", "fp8", "0.33", False), ("llama-3.1-8b", "a100-80g", "fp8", "0.33", True),
        ("llama-3.1-8b", "l4", "fp8", "0.33", True), ("llama-3.1-8b", "b200", "nvfp4", "0.31", True),
        ("llama-3.1-8b", "h100-sxm", "nvfp4", "0.31", False), ("llama-3.1-8b", "h100-sxm", "nvfp4", "0.32", True),
        ("llama-3.1-8b", "jetson-agx-thor", "nvfp4", "0.33", False),
        # FlashInfer, the one to read fp8 on Ampere, has no sinks, images that see themselves nor such heads.
        ("gpt-oss-20b", "a100-80g", "fp8", "0.33", False), ("gpt-oss-20b", "l4", "fp8", "0.33", True),
        ("gemma-3-4b", "a10", "fp8", "0.33", False), ("phi-3-mini", "a100-80g", "fp8", "0.33", False),
        ("phi-3-mini", "l4", "fp8", "0.33", True), ("whisper-large-v3", "a100-80g", "fp8", "0.33", False),
        ("deepseek-v2-lite", "a100-80g", "fp8", "0.33", False), ("deepseek-v2-lite", "l4", "fp8", "0.33", True),
        ("deepseek-v2-lite", "h100-sxm", "fp8_e5m2", "0.33", False),
        ("deepseek-v2-lite", "a100-80g", None, "0.33", True),
    ],
)  # fmt: skip
def test_caches_that_no_kernel_reads_have_no_command(
    model: str, gpu: str, form: str | None, version: str, runs: bool
) -> None:
    report = fit_model(load_model(model), load_gpu(gpu), kv_dtype=form, max_model_len=448, version=version)
    assert (engine_flags(report)["vllm"] is not None) is runs
    assert any("no attention kernels" in warning for warning in fit_warnings(report)) is not runs


@pytest.mark.parametrize(
    ("gpu", "version", "runs"),
    [
        ("a100-80g", "0.33", False), ("l40s", "0.33", False), ("h100-sxm", "0.33", True), ("b200", "0.33", True),
        ("rtx-pro-6000", "0.33", True), ("rtx-pro-6000", "0.23", False), ("jetson-agx-thor", "0.33", False),
    ],
)  # fmt: skip
def test_latents_that_an_indexer_chooses_from_have_kernels_on_few_gpus(
    gpu: str, version: str, runs: bool
) -> None:
    report = fit_model(
        load_model("deepseek-v3.2"),
        load_gpu(gpu),
        parallel=Parallel(tp=8),
        max_model_len=1024,
        version=version,
    )
    assert (engine_flags(report)["vllm"] is not None) is runs


def test_no_remedy_is_a_format_that_no_kernel_reads() -> None:
    for model, suggested in (("llama-3.1-8b", True), ("gpt-oss-20b", False)):
        report = fit_model(load_model(model), load_gpu("a100-80g"), utilization=0.5)
        assert any("--dtype fp8" in way.option for way in remedies(report)) is suggested


@pytest.mark.parametrize(
    ("gpu", "suggested"),
    [("v100-32g", {"int4"}), ("t4", {"fp8", "int4"}), ("a100-40g", {"fp8", "int4"})],
)
def test_what_does_not_run_is_not_suggested(gpu: str, suggested: set[str]) -> None:
    report = fit_model(load_model("llama-3.1-8b"), load_gpu(gpu), max_model_len=8192)
    options = " ".join(way.option for way in remedies(report)).split()
    found = {value for flag, value in pairwise(options) if flag == "--weights-dtype"}
    assert found == suggested
    assert ("--dtype" in options) is (gpu == "a100-40g")


@pytest.mark.parametrize("gpu", ["a100-80g", "l4"])
def test_formats_that_are_widened_are_warned_of(gpu: str) -> None:
    report = fit_model(
        load_model("llama-3.1-8b"), load_gpu(gpu), weights_dtype="nvfp4", kv_dtype="fp8", max_model_len=1024
    )
    warnings = " ".join(fit_warnings(report))
    assert f"{gpu} has no fp4 arithmetic: weights stay nvfp4 in memory" in warnings
    assert ("attention widens the KV cache" in warnings) is (gpu == "a100-80g")


@pytest.mark.parametrize(("gpu", "widened"), [("mi210", True), ("rx-7900-xtx", True), ("mi300x", False)])
def test_fp8_is_widened_on_amd_gpus_without_it(gpu: str, widened: bool) -> None:
    report = fit_model(
        load_model("llama-3.1-8b"), load_gpu(gpu), weights_dtype="fp8", kv_dtype="fp8", max_model_len=1024
    )
    warnings = " ".join(fit_warnings(report))
    assert (f"{gpu} has no fp8 arithmetic: weights stay fp8" in warnings) is widened
    assert ("attention widens the KV cache" in warnings) is widened


@pytest.mark.parametrize(
    ("model", "served"),
    [("rwkv-4-7b", False), ("xlstm-7b", False), ("recurrentgemma-2b", False), ("falcon-mamba-7b", True)],
)
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_layers_that_no_engine_has_have_no_command(model: str, served: bool, engine: EngineKind) -> None:
    report = fit_model(load_model(model), load_gpu("h100-sxm"), max_model_len=1024)
    reason = no_command(report, engine)
    assert (engine_flags(report)[engine] is not None) is served is (reason is None)
    assert served or "no models with layers of" in str(reason)
