"""Starts of vLLM 0.15 to 0.33 on several GPUs: pipeline stages, ranks of data parallelism, experts dealt to ranks.

The model's own classes were built for each rank, on no device, and vLLM's own functions grouped the caches of
all stages and counted blocks. ``weights`` are the bytes of parameters in bf16 of each stage, and ``layers`` how
many keep something there, divided by ``/``; ``experts`` is 1 where whole ones are dealt.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kvplan.sizing.capacity import FitReport, fit_model
from kvplan.sizing.overheads import captured_sizes
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import load_gpu, load_model

RECORDED = Path(__file__).parent / "recorded" / "vllm-stages.csv"


def rows() -> list[dict[str, str]]:
    with RECORDED.open() as file:
        return list(csv.DictReader(file))


def started(row: dict[str, str]) -> FitReport:
    tp, dp = int(row["tp"]), int(row["dp"])
    return fit_model(
        load_model(row["model"]), load_gpu(row["gpu"]), version=row["version"], weights_dtype="bf16",
        parallel=Parallel(tp=tp * dp, pp=int(row["pp"]), attention_ranks=dp),
        expert_parallel=row["experts"] == "1", max_model_len=int(row["context"]),
        kv_pool_bytes=int(row["available"]),
    )  # fmt: skip


@pytest.mark.parametrize("model", sorted({row["model"] for row in rows()}))
def test_stages_and_ranks_equal_vllms(model: str) -> None:
    for row in (row for row in rows() if row["model"] == model):
        report = started(row)
        graphs = captured_sizes(report.serving)[0]
        held = [stage for stage in report.stages if stage.pool.pages]
        said = {
            "layers": "/".join(str(len(stage.pool.pages)) for stage in report.stages),
            "block": report.block_size,
            "blocks": min(stage.capacity.num_blocks for stage in held),
            "groups": max(len(stage.pool.layout(report.max_model_len).groups) for stage in held),
            "graphs": len(graphs), "largest": graphs[-1], "seqs": report.serving.max_num_seqs,
            "tokens": report.serving.max_num_batched_tokens,
        }  # fmt: skip
        assert {key: str(value) for key, value in said.items()} == {key: row[key] for key in said}, row
        assert float(report.max_concurrency) == pytest.approx(float(row["concurrency"]), rel=1e-6), row
        weights = [stage.bill.weights.stored_bytes for stage in report.stages]
        assert weights == pytest.approx([int(size) for size in row["weights"].split("/")], rel=4e-4), row


def test_the_sample_covers_what_was_compared() -> None:
    recorded = rows()
    assert len({row["version"] for row in recorded}) >= 5
    assert len({row["model"] for row in recorded}) >= 55
    assert {row["pp"] for row in recorded} == {"1", "2", "3", "4"}
    assert sum(int(row["dp"]) > 1 for row in recorded) >= 20
    assert sum(row["experts"] == "1" for row in recorded) >= 20
    groups = [row for row in recorded if int(row["dp"]) > 1 and int(row["tp"]) > 1]
    assert min(len([row for row in groups if row["experts"] == dealt]) for dealt in "01") >= 5
