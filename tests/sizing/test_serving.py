"""Start-up options that nobody gave, as vLLM fills them in on a GPU."""

from __future__ import annotations

import pytest

from kvplan.sizing.capacity import fit_model
from kvplan.sizing.overheads import captured_sizes
from kvplan.sizing.serving import resolve_serving
from kvplan.specs.catalog import load_gpu, load_model


def limits(gpu: str, version: str, **given: int) -> tuple[int, int]:
    serving = resolve_serving("vllm", load_gpu(gpu), version=version, **{"max_model_len": 32768, **given})
    return serving.max_num_batched_tokens, serving.max_num_seqs


@pytest.mark.parametrize(
    ("gpu", "version", "expected"),
    [
        ("h100-sxm", "0.33", (8192, 1024)), ("a100-80g", "0.33", (2048, 256)), ("l4", "0.33", (2048, 256)),
        ("b200", "0.27.1", (8192, 1024)), ("b200", "0.28", (16384, 1024)), ("mi300x", "0.33", (16384, 1024)),
        ("gb10", "0.32", (8192, 1024)), ("gb10", "0.33", (2048, 256)), ("b200", "0.8.4", (2048, 256)),
    ],
)  # fmt: skip
def test_limits_of_a_step_follow_the_gpu(gpu: str, version: str, expected: tuple[int, int]) -> None:
    assert limits(gpu, version) == expected


def test_no_more_tokens_than_the_sequences_have() -> None:
    assert limits("h100-sxm", "0.33", max_num_seqs=2, max_model_len=1024) == (2048, 2)
    assert limits("h100-sxm", "0.10.2", max_num_seqs=2, max_model_len=1024) == (8192, 2)
    assert limits("h100-sxm", "0.33", max_num_seqs=2, max_model_len=1024, max_num_batched_tokens=4096) == (
        4096,
        2,
    )


def test_no_more_sequences_than_tokens() -> None:
    assert limits("h100-sxm", "0.33", max_num_batched_tokens=512) == (512, 512)
    assert limits("h100-sxm", "0.33", max_num_batched_tokens=512, max_num_seqs=600) == (512, 600)


@pytest.mark.parametrize(("gpu", "version", "largest"), [
    ("h100-sxm", "0.33", 512), ("b200", "0.27", 512), ("b200", "0.28", 1024), ("rtx-pro-6000", "0.33", 512),
])  # fmt: skip
def test_graphs_are_captured_up_to(gpu: str, version: str, largest: int) -> None:
    serving = resolve_serving("vllm", load_gpu(gpu), max_model_len=32768, version=version, max_num_seqs=1024)
    assert captured_sizes(serving)[0][-1] == largest


def test_sizes_beyond_512_go_on_in_steps_of_16() -> None:
    serving = resolve_serving("vllm", load_gpu("b200"), max_model_len=32768, max_num_seqs=300)
    pieces, whole = captured_sizes(serving)
    assert pieces[-3:] == (560, 576, 592)
    assert whole[-2:] == (288, 300)  # a decode of all sequences, since 0.31


def test_a_request_of_a_model_without_attention_holds_one_state() -> None:
    """vLLM caches no prefixes of it, and so has no second state open (``mamba_cache_mode`` none)."""
    mamba = fit_model(load_model("falcon-mamba-7b"), load_gpu("h100-sxm"))
    assert mamba.max_concurrency == mamba.num_blocks
    hybrid = fit_model(load_model("nemotron-h-8b"), load_gpu("h100-sxm"))
    assert hybrid.binding.pool.caches_prefixes
    assert not mamba.binding.pool.caches_prefixes
