"""Every bundled model loads, round-trips, and comes out at the size its architecture gives."""

from __future__ import annotations

import pytest

from kvplan.errors import near_names
from kvplan.sizing.size import size_model
from kvplan.specs.attention import (
    ChunkedAttention,
    CompressedAttention,
    FullAttention,
    LatentAttention,
    SharedAttention,
    SlidingAttention,
)
from kvplan.specs.catalog import entries, load_entry, load_text
from kvplan.specs.dump import model_yaml
from kvplan.specs.model import ModelSpec

ENTRIES = [entry for entry in entries("model") if entry.origin == "bundled"]

PER_TOKEN = {
    "llama-2-7b": 524_288, "llama-2-70b": 327_680, "llama-3-8b": 131_072, "llama-3-70b": 327_680,
    "llama-3.1-405b": 516_096, "mixtral-8x7b": 131_072, "qwen2.5-7b": 57_344, "qwen3-235b-a22b": 192_512,
    "gemma-2-27b": 188_416, "phi-4": 204_800, "falcon-7b": 8_192, "santacoder": 12_288, "starcoder": 20_480,
    "deepseek-v2-lite": 31_104, "deepseek-v3": 70_272, "deepseek-r1": 70_272, "kimi-k2": 70_272,
    "gpt-oss-120b": 36_864, "gpt2": 36_864, "gemma-4-e2b": 6_144, "nemotron-super-49b": 200_704,
}  # fmt: skip


def test_there_are_at_least_120_models() -> None:
    assert len(ENTRIES) >= 120


def test_aliases_belong_to_one_model() -> None:
    owner: dict[str, str] = {}
    for entry in ENTRIES:
        for name in (entry.name, *entry.aliases()):
            assert owner.setdefault(name.casefold(), entry.name) == entry.name, name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_model_loads_round_trips_and_has_the_bytes_of_its_layers(entry) -> None:
    spec = load_entry(entry, ModelSpec)
    assert load_text(model_yaml(spec), entry.name, ModelSpec) == spec
    assert spec.source.url.startswith("https://")
    report = size_model(spec, context_tokens=4096, kv="bf16", retention="transformers")
    assert report.kv_bytes_per_token == _by_hand(spec)


def _by_hand(spec: ModelSpec) -> float:
    """Bytes of one more token, recomputed layer by layer without any of the sizing code."""
    total = 0.0
    for block in spec.layers():
        attention = block.attention
        if isinstance(attention, FullAttention):
            value = attention.v_head_dim or attention.head_dim
            total += 2 * attention.kv_heads * (attention.head_dim + value)
        elif isinstance(attention, LatentAttention):
            total += 2 * (attention.kv_lora_rank + attention.rope_head_dim)
        elif isinstance(attention, CompressedAttention) and attention.ratio:
            total += 2 * attention.head_dim / attention.ratio
        else:
            assert attention is None or isinstance(
                attention, (SlidingAttention, ChunkedAttention, SharedAttention, CompressedAttention)
            )
        indexer = getattr(attention, "indexer", None)
        if indexer is not None and indexer.owned:
            total += 2 * indexer.head_dim * indexer.key_heads / (getattr(attention, "ratio", 1) or 1)
    return total


@pytest.mark.parametrize(("name", "expected"), sorted(PER_TOKEN.items()))
def test_golden_bytes_per_token(name: str, expected: int) -> None:
    entry = next(entry for entry in ENTRIES if entry.name == name)
    spec = load_entry(entry, ModelSpec)
    assert size_model(spec, context_tokens=4096, kv="bf16").kv_bytes_per_token == expected


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("qwen3-235B", "qwen3-235b-a22b"),
        ("nemotron-3-super", "nemotron-3-super-120b-a12b-fp8"),
        ("llama-3-8b-instruct", "llama-3-8b"),
        ("DeepSeek-V3-0324", "deepseek-v3"),
        ("lama-3.1-8b", "llama-3.1-8b"),
    ],
)
def test_a_name_without_its_end_or_with_more_of_one_is_recognised(asked: str, first: str) -> None:
    assert near_names(asked, [entry.name for entry in entries("model")])[0] == first
