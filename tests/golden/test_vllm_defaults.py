"""Starts of vLLM 0.9 to 0.33 as its own functions reckoned them, on GPUs that were invented for them.

A sample of the settings that were compared once. The configuration was made by the command line's own code, the
layers by the models' own classes, on no device; what was left for the cache was told to it (``available``).
Columns after ``available`` are what vLLM found; those of the pool are empty where it was not asked for one.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kvplan.sizing.capacity import FitReport, fit_model
from kvplan.sizing.overheads import captured_sizes
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.prefix_caching import caches_prefixes
from kvplan.specs.catalog import load_gpu, load_model

RECORDED = Path(__file__).parent / "recorded" / "vllm-defaults.csv"


def rows() -> list[dict[str, str]]:
    with RECORDED.open() as file:
        return list(csv.DictReader(file))


def started(row: dict[str, str]) -> FitReport:
    def number(key: str) -> int | None:
        return int(row[key]) if row[key] else None

    def flag(key: str) -> bool | None:
        return row[key] == "1" if row[key] else None

    return fit_model(
        load_model(row["model"]), load_gpu(row["gpu"]), version=row["version"],
        parallel=Parallel(tp=int(row["tp"]), pp=int(row["pp"])), kv_dtype=row["kv"] or None,
        max_model_len=number("context"), max_num_seqs=number("seqs"), max_num_batched_tokens=number("tokens"),
        block_size=number("block"), prefix_caching=flag("prefix"), async_scheduling=flag("async"),
        cuda_graphs=row["eager"] != "1", kv_pool_bytes=int(row["available"]),
    )  # fmt: skip


def found(row: dict[str, str]) -> dict[str, str]:
    """What kvplan says, in the columns of the recording."""
    report = started(row)
    serving, graphs = report.serving, captured_sizes(report.serving)[0]
    caches = serving.prefix_caching
    if caches is None:
        caches = caches_prefixes(report.model, serving.version)
    said = {
        "tokens_found": serving.max_num_batched_tokens, "seqs_found": serving.max_num_seqs,
        "prefix_found": int(caches), "async_found": int(serving.async_scheduling),
        "graphs_found": len(graphs), "largest_found": graphs[-1] if graphs else 0,
    }  # fmt: skip
    if row["blocks_found"]:
        held = [stage for stage in report.stages if stage.pool.pages]
        said |= {
            "block_found": report.block_size,
            "blocks_found": min(stage.capacity.num_blocks for stage in held),
            "groups_found": max(len(stage.pool.layout(report.max_model_len).groups) for stage in held),
        }
    return {key: str(value) for key, value in said.items()}


@pytest.mark.parametrize("version", sorted({row["version"] for row in rows()}))
def test_defaults_equal_vllms(version: str) -> None:
    for row in (row for row in rows() if row["version"] == version):
        said = found(row)
        assert said == {key: row[key] for key in said}, row
        if row["concurrency_found"]:
            assert float(started(row).max_concurrency) == pytest.approx(
                float(row["concurrency_found"]), rel=1e-6
            ), row


def test_the_sample_covers_what_was_compared() -> None:
    recorded = rows()
    assert len({row["version"] for row in recorded}) >= 12
    assert len({row["model"] for row in recorded}) >= 40
    assert len({row["gpu"] for row in recorded}) >= 18
    assert sum(bool(row["blocks_found"]) for row in recorded) > 150
