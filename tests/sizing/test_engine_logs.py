"""Published start-up lines of real engines: the tokens their pools hold, to 0.3 %, or why a row cannot say."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from kvplan.sizing.attention import Keeping, layer_stores
from kvplan.sizing.capacity import fit_model
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.size import size_model
from kvplan.specs.catalog import load_gpu
from kvplan.specs.formats import kv_format
from kvplan.specs.huggingface import import_config, read_config
from kvplan.specs.schema import ModelSpec, Segment
from kvplan.units import GIB

Hand = Callable[[str], ModelSpec]

UNUSABLE = {
    "7": "the pool's size in GiB is not in the log",
    "13": "the pool's size in GiB is not in the log",
    "18": "the pool's size in GiB is not in the log",
    "20": "an estimator's budget, not an allocation: it holds working buffers beside the cache",
    "29": "the pool's size in GiB is not in the log",
    "42": "no configuration of this model is at hand, and a drafter shares the pool",
    "44": "a fork, with a drafter, and the pool's size in GiB is not in the log",
    "48": "a drafter with five auxiliary layers shares the pool, and its shape is not known",
    "50": "a drafter shares the pool, and its size in GiB is not in the log",
    "52": "a drafter shares the pool, and its shape is not known",
    "54": "no configuration of this model is at hand",
    "56": "no configuration of this model is at hand",
    "63": "the token line is not in the excerpt",
    "71": "the pool's size in GiB is not in the log",
    "75": "a fork with page layouts of its own",
    "78": "a fork and a pruned model, with a drafter",
    "80": "a ggml block format (q8_0), which is not one of the KV number formats",
}
"""Rows that cannot be compared, by id, and why."""

VLLM: dict[str, tuple[str, dict[str, object]]] = {
    "1": ("llama-3.1-8b", {"version": "0.6.4", "max_model_len": 20000}),
    "9": ("qwen3-14b", {"version": "0.28", "max_model_len": 40960}),
    "11": ("qwen2.5-7b", {"version": "0.20", "max_model_len": 32768}),
    "15": ("qwen3-0.6b", {"version": "0.30", "max_model_len": 2048}),
    "23": ("qwen3-235b-a22b", {"engine": "sglang", "parallel": Parallel(tp=4)}),
    "26": ("Qwen__Qwen3-VL-30B-A3B-Instruct", {"version": "0.20.2", "max_model_len": 32768}),
    "38": (  # on a T4, where one step takes 2,048 tokens
        "google__gemma-4-E2B-it",
        {"version": "0.26", "max_model_len": 16384, "max_num_batched_tokens": 2048},
    ),
    "46": (
        "nvidia__Qwen3.6-35B-A3B-NVFP4",
        {
            "version": "0.24",
            "max_model_len": 131072,
            "max_num_batched_tokens": 8192,
            "kv_dtype": "fp8",
            "prefix_caching": True,
        },
    ),
    "66": ("moonshotai__Kimi-K2.5", {"engine": "sglang", "parallel": Parallel(tp=8)}),
}
"""Rows whose pool and tokens are logged: the model, and the options the row gives."""


def _rows(shared: Path) -> dict[str, dict[str, str]]:
    with (shared / "data/engine_kv_logs.csv").open() as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def _model(shared: Path, hand_model: Hand, name: str) -> ModelSpec:
    path = shared / "data/model_configs" / f"{name}.json"
    return read_config(path).model if path.exists() else hand_model(name)


@pytest.mark.shared
def test_every_row_is_compared_or_says_why_not(shared: Path) -> None:
    compared = set(VLLM) | {"3", "34", "58", "61"}
    assert compared | set(UNUSABLE) == set(_rows(shared))
    assert not compared & set(UNUSABLE)


@pytest.mark.shared
@pytest.mark.parametrize("row_id", sorted(VLLM, key=int))
def test_tokens_of_a_logged_pool(shared: Path, hand_model: Hand, row_id: str) -> None:
    row = _rows(shared)[row_id]
    name, options = VLLM[row_id]
    report = fit_model(
        _model(shared, hand_model, name), load_gpu("h100-sxm"),
        kv_pool_bytes=int(float(row["avail_kv_gib_per_gpu"]) * GIB), **options,  # type: ignore[arg-type]
    )  # fmt: skip
    assert report.kv_tokens == pytest.approx(int(row["kv_tokens"]), rel=0.003)
    if row["max_concurrency"]:
        assert float(report.max_concurrency) == pytest.approx(float(row["max_concurrency"]), abs=0.0151)


@pytest.mark.shared
def test_a_draft_head_is_one_more_layer(shared: Path, hand_model: Hand) -> None:
    row = _rows(shared)["3"]
    target = hand_model("llama-3.1-8b")
    both = target.model_copy(update={"layout": (Segment(repeat=33, blocks=("layer",)),)})
    report = fit_model(
        both,
        load_gpu("h100-sxm"),
        version="0.9.1",
        kv_pool_bytes=int(float(row["avail_kv_gib_per_gpu"]) * GIB),
    )
    assert report.kv_tokens == pytest.approx(int(row["kv_tokens"]), rel=0.003)
    assert float(report.max_concurrency) == pytest.approx(float(row["max_concurrency"]), abs=0.01)


@pytest.mark.shared
def test_delta_nets_beside_pooled_indexers_to_the_last_digit(shared: Path) -> None:
    """GLM-5.3-Flash served without prefix caching: its shape is the default of its class, pools of 4 keys."""
    row = _rows(shared)["61"]
    config = {
        "model_type": "glm5_next_text", "num_hidden_layers": 45, "hidden_size": 4096, "kv_lora_rank": 512,
        "qk_rope_head_dim": 0, "linear_num_heads": 64, "linear_head_dim": 128, "index_kpool": 4,
    }  # fmt: skip
    longest = int(row["max_model_len"])
    report = size_model(
        import_config(config, "config.json", name="glm-5.3-flash").model,
        context_tokens=longest, kv="fp8", parallel=Parallel(tp=4), mamba_mode="none",
    )  # fmt: skip
    layout = report.layout
    assert layout is not None
    assert layout.block_size == 1664
    blocks = int(float(row["avail_kv_gib_per_gpu"]) * GIB) // layout.block_bytes
    assert f"{blocks / layout.blocks_per_request:.2f}" == row["max_concurrency"]
    assert blocks * longest // layout.blocks_per_request == int(row["kv_tokens"])


@pytest.mark.shared
@pytest.mark.parametrize(("row_id", "name"), [("34", "openai__gpt-oss-120b"), ("58", "Qwen__Qwen3.5-27B")])
def test_bytes_per_token_of_the_full_attention_layers(
    shared: Path, hand_model: Hand, row_id: str, name: str
) -> None:
    """llama.cpp logs the growing cache by itself, apart from windows and recurrent state."""
    row = _rows(shared)[row_id]
    keeping = Keeping("ideal", kv_format("fp16"))
    stores = [
        store
        for block in _model(shared, hand_model, name).layers()
        for store in layer_stores(block, keeping)
        if store.reach == "context"
    ]
    total = sum(store.bytes_per_token() for store in stores)
    assert float(total) == pytest.approx(float(row["implied_bytes_per_token_per_gpu"]), rel=0.003)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("row_id", "name", "options"),
    [
        ("1", "llama-3.1-8b", {}),
        ("7", "qwen3-8b", {}),
        ("9", "qwen3-14b", {}),
        ("11", "qwen2.5-7b", {"weights_dtype": "awq"}),
        ("66", "moonshotai__Kimi-K2.5", {"parallel": Parallel(tp=8)}),
    ],
)
def test_weights_of_a_log(
    shared: Path, hand_model: Hand, row_id: str, name: str, options: dict[str, object]
) -> None:
    report = fit_model(_model(shared, hand_model, name), load_gpu("h200-sxm"), **options)  # type: ignore[arg-type]
    logged = float(_rows(shared)[row_id]["weights_gib_per_gpu"])
    assert report.weights_bytes / GIB == pytest.approx(logged, rel=0.01)
