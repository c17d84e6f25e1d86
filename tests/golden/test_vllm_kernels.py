"""Attention kernels that vLLM 0.24 to 0.33 chose on GPUs that were invented for them, and the blocks they want.

Its own selection was asked, layer by layer, with FlashInfer's kernels taken to be there: a sample of 66,000 layers,
stratified by answer. No block: no kernel reads the layer, or the one that was chosen refuses it. ``images``: their
tokens attend to one another.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kvplan.sizing.head_kernels import Heads, are_read, head_block
from kvplan.sizing.latent_block import latent_block, unread_latents
from kvplan.sizing.serving import compute_capability, parse_version, resolve_serving
from kvplan.specs.attention import Indexer, LatentAttention
from kvplan.specs.catalog import load_gpu

RECORDED = Path(__file__).parent / "recorded" / "vllm-kernels.csv"

GPUS = {
    "7.5": "t4", "8.0": "a100-80g", "8.6": "a10", "8.9": "l40s", "9.0": "h100-sxm", "10.0": "b200",
    "10.3": "b300", "11.0": "jetson-agx-thor", "12.0": "rtx-pro-6000", "12.1": "gb10",
}  # fmt: skip


def rows() -> list[dict[str, str]]:
    with RECORDED.open() as file:
        return list(csv.DictReader(file))


def found(row: dict[str, str]) -> str:
    """Tokens of a block, or nothing where kvplan knows no kernel."""
    gpu, version, form = load_gpu(GPUS[row["capability"]]), parse_version(row["version"]), row["kv"]
    capability = compute_capability(gpu)
    serving = resolve_serving("vllm", gpu, max_model_len=4096, version=row["version"])
    if row["kind"] == "heads":
        dtype = "fp16" if row["capability"] == "7.5" else "bf16"
        heads = Heads(int(row["dim"]), form, dtype, row["sinks"] == "1", row["images"] == "1")
        return str(head_block([heads], serving)) if are_read(heads, capability, version) else ""
    rank = int(row["rank"])
    attention = LatentAttention(
        query_heads=32, kv_lora_rank=rank, rope_head_dim=int(row["dim"]) - rank, nope_head_dim=int(row["nope"]),
        v_head_dim=128, indexer=Indexer(heads=64, head_dim=128) if row["kind"] == "sparse" else None,
    )  # fmt: skip
    if unread_latents(attention, form, capability, version) is not None:
        return ""
    return str(latent_block(attention, serving, narrow=form.startswith("fp8")))


@pytest.mark.parametrize("capability", GPUS)
def test_kernels_equal_vllms(capability: str) -> None:
    compared = [row for row in rows() if row["capability"] == capability]
    assert len(compared) > 10
    assert [(row, found(row)) for row in compared if found(row) != row["block"]] == []


def test_every_answer_is_recorded() -> None:
    answers = {(row["kind"], row["block"]) for row in rows()}
    assert {("heads", block) for block in ("", "16", "64")} < answers
    assert {("latent", block) for block in ("", "16", "32", "64", "128")} < answers
    assert {("sparse", ""), ("sparse", "64")} < answers
