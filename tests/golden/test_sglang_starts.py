"""Starts of SGLang 0.5.23 as its own resolution of arguments settled them, on GPUs that were invented for it.

A sample of 1,800 starts without options of 99 configurations on ten GPUs, which were compared once. ``kv`` is empty where the
checkpoint or the model's dtype decides; ``kernel`` is the backend that was chosen, which decides the page.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kvplan.sizing.capacity import FitReport, fit_model
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.sglang.format import sparse_format
from kvplan.sizing.sglang.pool import window_ratio
from kvplan.specs.catalog import load_gpu, load_model

RECORDED = Path(__file__).parent / "recorded" / "sglang-starts.csv"


def rows() -> list[dict[str, str]]:
    with RECORDED.open() as file:
        return list(csv.DictReader(file))


def started(row: dict[str, str]) -> FitReport:
    return fit_model(
        load_model(row["model"]), load_gpu(row["gpu"]), engine="sglang", version="0.5.23",
        parallel=Parallel(tp=int(row["tp"])),
    )  # fmt: skip


@pytest.mark.parametrize("gpu", sorted({row["gpu"] for row in rows()}))
def test_starts_equal_sglangs(gpu: str) -> None:
    compared = [row for row in rows() if row["gpu"] == gpu]
    assert len(compared) > 10
    for row in compared:
        report = started(row)
        serving = report.serving
        found = (report.block_size, serving.max_num_batched_tokens, serving.graph_max_batch)
        assert found == (int(row["page"]), int(row["chunk"]), int(row["graph"])), row
        assert serving.utilization == pytest.approx(float(row["share"]), abs=1e-4), row
        assert (sparse_format(report.model, serving) or "") == row["kv"], row
        windows = any(
            page.store is not None and page.store.reach == "window" for page in report.binding.pool.pages
        )
        if windows:
            assert float(window_ratio(report.model, serving.version)) == float(row["window_ratio"]), row


STAGES = Path(__file__).parent / "recorded" / "sglang-stages.csv"
"""A sample of 480 starts with pipeline stages, ranks of data-parallel attention and experts dealt to ranks."""


def test_starts_of_stages_and_ranks_equal_sglangs() -> None:
    with STAGES.open() as file:
        recorded = list(csv.DictReader(file))
    assert len(recorded) > 100
    assert sum(1 < int(row["ranks"]) < int(row["tp"]) for row in recorded) > 20
    for row in recorded:
        ranks = int(row["ranks"])
        report = fit_model(
            load_model(row["model"]), load_gpu(row["gpu"]), engine="sglang", version="0.5.23",
            parallel=Parallel(tp=int(row["tp"]), pp=int(row["pp"]), attention_ranks=ranks),
            expert_parallel=row["experts"] == "1",
        )  # fmt: skip
        serving = report.serving
        found = (report.block_size, serving.max_num_batched_tokens // ranks, serving.graph_max_batch)
        assert found == (int(row["page"]), int(row["chunk"]), int(row["graph"])), row
        assert serving.utilization == pytest.approx(float(row["share"]), abs=1.1e-3), row
