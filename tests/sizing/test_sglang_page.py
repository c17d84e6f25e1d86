"""Pages of SGLang's pool, by GPU, attention, version and what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvplan.sizing.capacity import fit_model
from kvplan.sizing.flags import engine_flags
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.huggingface import read_config
from kvplan.specs.schema import ModelSpec


def page(model: str | ModelSpec, gpu: str, version: str = "0.5.23", **options: object) -> int:
    spec = load_model(model) if isinstance(model, str) else model
    return fit_model(spec, load_gpu(gpu), engine="sglang", version=version, **options).block_size  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "gpu", "version", "tokens"),
    [
        ("llama-3.1-8b", "h100-sxm", "0.5.23", 1), ("llama-3.1-8b", "l4", "0.5.23", 1),
        ("llama-3.1-8b", "rtx-5090", "0.5.23", 1), ("llama-3.1-8b", "mi300x", "0.5.23", 1),
        ("llama-3.1-8b", "b200", "0.5.6", 1), ("llama-3.1-8b", "b200", "0.5.7", 64),
        ("gpt-oss-20b", "b200", "0.5.3", 64), ("llama-4-scout", "b200", "0.5.5", 64),
        ("deepseek-v3", "b200", "0.5.3", 1), ("deepseek-v3", "b200", "0.5.4", 64),
        ("kimi-k2", "b200", "0.5.23", 64), ("deepseek-v3", "h200-sxm", "0.5.23", 1),
        ("deepseek-v2", "b200", "0.5.23", 1),
        ("deepseek-v3.2", "h200-sxm", "0.5.3", 64), ("deepseek-v3.2", "b200", "0.5.23", 64),
        ("qwen3-next-80b-a3b", "b200", "0.5.13", 1), ("qwen3-next-80b-a3b", "b200", "0.5.14", 1),
        ("qwen3-next-80b-a3b", "h100-sxm", "0.5.23", 1), ("qwen3.5-27b", "b200", "0.5.23", 1),
        ("nemotron-h-56b", "b200", "0.5.13", 1), ("nemotron-h-56b", "b200", "0.5.14", 64),
        ("gemma-4-31b", "b200", "0.5.23", 64), ("gemma-4-31b", "b200", "0.5.12", 1),
        ("olmo-2-13b", "b200", "0.5.4", 64), ("exaone-4.0-32b", "b200", "0.5.6", 1),
    ],
)  # fmt: skip
def test_pages_are_what_the_kernels_read(model: str, gpu: str, version: str, tokens: int) -> None:
    assert page(model, gpu, version) == tokens


@pytest.mark.shared
def test_sparse_and_compressed_attention(shared: Path) -> None:
    def config(name: str) -> ModelSpec:
        return read_config(shared / f"data/model_configs/{name}.json").model

    assert page(config("deepseek-ai__DeepSeek-V4-Flash"), "h200-sxm") == 256
    minimax = config("MiniMaxAI__MiniMax-M3")
    assert [page(minimax, gpu) for gpu in ("h200-sxm", "b200", "l40s")] == [128, 128, 1]
    assert page(minimax, "h200-sxm", "0.5.15") == 1


@pytest.mark.parametrize(
    ("model", "gpu", "given", "tokens"),
    [
        ("llama-3.1-8b", "h100-sxm", 16, 16), ("llama-3.1-8b", "b200", 32, 32), ("llama-3.1-8b", "b200", 128, 128),
        ("llama-3.1-8b", "b200", 1, 64), ("deepseek-v3", "b200", 32, 32), ("deepseek-v3", "b200", 128, 64),
        ("deepseek-v3.2", "h200-sxm", 16, 64), ("deepseek-v3", "h200-sxm", 16, 16),
        ("qwen3-next-80b-a3b", "b200", 16, 1), ("nemotron-h-56b", "b200", 16, 16),
    ],
)  # fmt: skip
def test_a_size_that_is_given_is_kept_where_kernels_read_it(
    model: str, gpu: str, given: int, tokens: int
) -> None:
    assert page(model, gpu, block_size=given) == tokens


def test_pages_of_128_are_read_since_0_5_17() -> None:
    assert page("llama-3.1-8b", "b200", "0.5.16", block_size=128) == 64


def test_keys_wider_than_values_run_on_another_kernel() -> None:
    model = load_model("llama-3.1-8b")
    block = model.blocks["layer"] if "layer" in model.blocks else next(iter(model.blocks.values()))
    assert block.attention is not None
    wide = block.attention.model_copy(update={"v_head_dim": 64})
    name = next(key for key, value in model.blocks.items() if value == block)
    unequal = model.model_copy(
        update={"blocks": {**model.blocks, name: block.model_copy(update={"attention": wide})}}
    )
    assert [page(unequal, "b200", version) for version in ("0.5.16", "0.5.17")] == [64, 128]


def test_drafting_on_blackwell_without_a_width_keeps_single_tokens() -> None:
    model = load_model("llama-3.1-8b")
    assert page(model, "b200", drafter=load_model("llama-3.2-1b")) == 1
    for name in ("gpt-oss-20b", "gemma-4-31b", "olmo-2-13b", "exaone-4.0-32b", "nemotron-h-56b"):
        assert page(name, "b200", drafter=load_model("llama-3.2-1b")) == 64
    assert page("nemotron-h-56b", "b200", "0.5.18", drafter=load_model("llama-3.2-1b")) == 1
    assert page("qwen3-next-80b-a3b", "b200", drafter=load_model("llama-3.2-1b")) == 1


@pytest.mark.shared
def test_keys_that_stand_for_several_tokens_want_whole_pages_on_every_gpu(shared: Path) -> None:
    model = read_config(shared / "data/model_configs/Qwen__Qwen4-Exp.json").model
    assert [page(model, gpu) for gpu in ("h100-sxm", "b200", "a100-80g")] == [64, 64, 64]
    assert page(model, "h100-sxm", block_size=16) == 64
    assert page(model, "h100-sxm", "0.5.19") == 1


def test_the_command_gives_the_same_pool() -> None:
    gpu = load_gpu("b200")
    plain = fit_model(load_model("llama-3.1-8b"), gpu, engine="sglang")
    assert "--page-size" not in str(engine_flags(plain)["sglang"])  # the engine's default is the same
    asked = fit_model(load_model("llama-3.1-8b"), gpu, engine="sglang", block_size=32, max_num_seqs=100)
    flags = str(engine_flags(asked)["sglang"])
    assert "--page-size 32" in flags
    assert "--max-running-requests 100" in flags
    again = fit_model(
        load_model("llama-3.1-8b"), gpu, engine="sglang", block_size=32, max_num_seqs=100,
        utilization=float(flags.split("--mem-fraction-static ")[1].split()[0]),
        max_num_batched_tokens=int(flags.split("--chunked-prefill-size ")[1].split()[0]),
        max_model_len=int(flags.split("--context-length ")[1].split()[0]),
    )  # fmt: skip
    assert (again.kv_tokens, again.kv_pool_bytes) == (asked.kv_tokens, asked.kv_pool_bytes)
    many = fit_model(load_model("deepseek-v3"), gpu, engine="sglang", parallel=Parallel(tp=8))
    assert many.kv_tokens % 64 == 0


def test_sparse_attention_has_a_number_format_of_its_own_on_each_gpu() -> None:
    def kept(gpu: str, version: str = "0.5.23", **options: object) -> tuple[str, str]:
        report = fit_model(
            load_model("deepseek-v3.2"), load_gpu(gpu), engine="sglang", version=version,
            parallel=Parallel(tp=8), **options,
        )  # fmt: skip
        flags = str(engine_flags(report)["sglang"])
        return report.kv_format.name, flags.split("--kv-cache-dtype ")[1].split()[0]

    assert kept("b200") == ("fp8_e4m3", "fp8_e4m3")
    assert kept("h200-sxm") == ("bf16", "bfloat16")
    assert kept("b200", kv_dtype="bf16") == ("bf16", "bfloat16")  # or SGLang would take fp8
