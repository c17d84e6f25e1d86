"""Pages and groups: against sizes that vLLM publishes and against what its logs imply."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvplan.sizing.attention import Keeping, attention_stores
from kvplan.sizing.size import size_model
from kvplan.specs.attention import CompressedAttention, FullAttention, Indexer, LatentAttention
from kvplan.specs.catalog import load_model
from kvplan.specs.formats import kv_format

MLA = LatentAttention(
    query_heads=16, kv_lora_rank=512, rope_head_dim=64, nope_head_dim=128, v_head_dim=128,
    indexer=Indexer(heads=64, head_dim=128),
)  # fmt: skip


def v4(ratio: int) -> CompressedAttention:
    return CompressedAttention(
        query_heads=64, head_dim=512, rope_head_dim=64, window=128, ratio=ratio, overlap=ratio == 4,
        q_lora_rank=1024, o_lora_rank=1024, o_groups=8,
        indexer=Indexer(heads=64, head_dim=128) if ratio == 4 else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("form", "page"),
    [
        ("bf16", 65_536),
        ("fp8", 32_768),
        ("int8_per_token_head", 33_792),
        ("int4_per_token_head", 17_408),
        ("nvfp4", 18_432),
    ],
)
def test_pages_of_eight_heads(form: str, page: int) -> None:
    attention = FullAttention(query_heads=8, kv_heads=8, head_dim=128)
    (store,) = attention_stores(attention, Keeping("vllm", kv_format(form)))
    assert store.page_bytes(16) == page


@pytest.mark.parametrize(
    ("form", "page"),
    [("bf16", 18_432), ("fp8_ds_mla", 10_496), ("nvfp4_ds_mla", 5_632), ("int8_per_token_head", 9_344)],
)
def test_pages_of_latents_and_of_index_keys(form: str, page: int) -> None:
    latent, keys = attention_stores(MLA, Keeping("vllm", kv_format(form)))
    assert latent.page_bytes(16) == page
    assert keys.page_bytes(16) == 2112


def test_vllm_packs_fp8_latents_of_sparse_attention() -> None:
    latent, _ = attention_stores(MLA, Keeping("vllm", kv_format("fp8")))
    assert latent.bytes_per_token() == 656


def test_compressed_layers_have_the_published_pages() -> None:
    def pages(ratio: int) -> list[tuple[int, int]]:
        stores = attention_stores(v4(ratio), Keeping("vllm", kv_format("bf16")))
        return sorted((store.page_tokens, store.page_bytes(store.page_tokens)) for store in stores)

    assert pages(0) == [(64, 37_440)]
    assert pages(4) == [(4, 8_640), (4, 32_832), (64, 37_440), (256, 8_640), (256, 37_440)]
    assert pages(128) == [(8, 32_832), (64, 37_440), (256, 1_728)]


@pytest.mark.shared
def test_every_published_page_size(shared: Path) -> None:
    rows = json.loads((shared / "data/golden/vllm_page_sizes.json").read_text())["rows"]
    checked = 0
    for row in rows:
        if row["spec"] == "MambaSpec":
            continue  # a bare state, without the shape it came from
        form = {"auto": "bf16", "float16": "fp16", "uint8": "bf16"}.get(
            row["kv_cache_dtype"], row["kv_cache_dtype"]
        )
        assert _page(row, form) == row["page_size_bytes"], row
        checked += 1
    assert checked == len(rows) - 1


def _page(row: dict[str, int | str], form: str) -> int:
    spec, block = str(row["spec"]), int(row["block_size"])
    keeping = Keeping("vllm", kv_format(form))
    if "deepseek_v4" in spec:
        ratio = int(row["tokens_per_state"])
        stores = attention_stores(v4(ratio if ratio > 1 else 0), Keeping("vllm", kv_format("bf16")))
        return stores[1 if ratio > 1 else 0].page_bytes(block)
    if "indexer" in spec:
        return attention_stores(MLA, keeping)[1].page_bytes(block)
    if spec.startswith("MLA"):
        plain = MLA.model_copy(update={"indexer": None})
        return attention_stores(plain, keeping)[0].page_bytes(block)
    heads = int(row["num_kv_heads"])
    value = 64 if "head_size_v=64" in spec else None
    attention = FullAttention(
        query_heads=heads, kv_heads=heads, head_dim=int(row["head_size"]), v_head_dim=value
    )
    return attention_stores(attention, keeping)[0].page_bytes(block)


@pytest.mark.parametrize(
    ("name", "context", "form", "budget", "pool_gib", "concurrency"),
    [
        # Start-up lines of vLLM 0.24 and later: available KV memory and "maximum concurrency".
        ("qwen3.6-35b-a3b-nvfp4", 131_072, "fp8", 8192, 5.98, 4.33),
        ("gemma-4-e2b", 16_384, "fp16", 2048, 4.66, 31.72),
    ],
)
def test_one_request_takes_what_real_logs_imply(
    name: str, context: int, form: str, budget: int, pool_gib: float, concurrency: float
) -> None:
    report = size_model(load_model(name), context_tokens=context, kv=form, max_num_batched_tokens=budget)
    implied = pool_gib * 2**30 / concurrency
    assert report.allocated_bytes_per_sequence == pytest.approx(implied, rel=0.003)
