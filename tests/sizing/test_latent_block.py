"""Block sizes that vLLM's MLA kernels ask for, by version and GPU."""

from __future__ import annotations

import pytest

from kvplan.sizing.latent_block import latent_block
from kvplan.sizing.serving import resolve_serving
from kvplan.specs.attention import Indexer, LatentAttention
from kvplan.specs.catalog import load_gpu


def latents(nope: int = 128, rank: int = 512, indexer: Indexer | None = None) -> LatentAttention:
    return LatentAttention(
        query_heads=128,
        kv_lora_rank=rank,
        rope_head_dim=64,
        nope_head_dim=nope,
        v_head_dim=128,
        indexer=indexer,
    )


def block(gpu: str, version: str, *, narrow: bool = False, given: int | None = None, **shape: int) -> int:
    serving = resolve_serving("vllm", load_gpu(gpu), max_model_len=4096, version=version, block_size=given)
    return latent_block(latents(**shape), serving, narrow=narrow)


@pytest.mark.parametrize(
    ("gpu", "version", "tokens"),
    [
        ("h200-sxm", "0.7.3", 16), ("h200-sxm", "0.8.5", 64), ("h200-sxm", "0.17.1", 64),
        ("h200-sxm", "0.18", 16), ("h200-sxm", "0.33", 16),
        ("b200", "0.10.0", 16), ("b200", "0.10.1", 128), ("b200", "0.14.1", 128), ("b200", "0.15", 64),
        ("b200", "0.17", 64), ("b200", "0.18", 32), ("b200", "0.33", 32),
        ("a100-80g", "0.33", 16), ("a100-80g", "0.10.2", 16), ("l40s", "0.33", 16),
        ("rtx-pro-6000", "0.33", 16), ("mi300x", "0.33", 16),
    ],
)  # fmt: skip
def test_the_first_kernel_that_supports_the_gpu_decides(gpu: str, version: str, tokens: int) -> None:
    assert block(gpu, version) == tokens


def test_flash_attention_reads_neither_8_bit_latents_nor_other_widths() -> None:
    assert block("h100-sxm", "0.33", narrow=True) == 64
    assert block("h100-sxm", "0.33", rank=256) == 16
    assert block("h100-sxm", "0.33", rank=128) == 16  # Triton's, as FlashMLA does not read them either
    assert block("b200", "0.33", rank=128) == 16
    assert block("h100-sxm", "0.17", rank=128) == 64


@pytest.mark.parametrize(
    ("nope", "version", "tokens"),
    [(192, "0.33", 32), (192, "0.18", 128), (64, "0.18", 32), (96, "0.33", 128), (192, "0.17", 128)],
)
def test_flashinfer_knows_some_shapes(nope: int, version: str, tokens: int) -> None:
    assert block("b200", version, nope=nope) == tokens


def test_a_size_that_is_given_stays_from_0_18_on() -> None:
    assert block("h200-sxm", "0.33", given=64) == 64
    assert block("b200", "0.33", given=16) == 16
    assert block("h200-sxm", "0.17", given=16) == 64
    assert block("h200-sxm", "0.17", given=128) == 128
    assert block("b200", "0.17", given=32) == 32


@pytest.mark.parametrize("gpu", ["h200-sxm", "b200"])
def test_indexers_read_pages_of_64_keys(gpu: str) -> None:
    sparse = latents(indexer=Indexer(heads=64, head_dim=128))
    serving = resolve_serving("vllm", load_gpu(gpu), max_model_len=4096)
    assert latent_block(sparse, serving, narrow=False) == 64
