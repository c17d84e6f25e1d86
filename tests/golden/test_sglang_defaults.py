"""Start-up defaults as the functions of SGLang 0.5.3 to 0.5.23 reckoned them, run on a GPU's memory alone.

240 starts drawn from 306,432 that were compared once, all of them equal. Whether prefills are captured was told to
those functions (``prefill_graphs``): the rules for it are read, and tested in ``tests/sizing``.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kvplan.sizing.sglang.graphs import prefill_graph_mib
from kvplan.sizing.sglang.reserve import sglang_reserve
from kvplan.sizing.sglang.start import Asked
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.schema import ModelSpec

RECORDED = Path(__file__).parent / "recorded" / "sglang-defaults.csv"


def rows() -> list[dict[str, str]]:
    with RECORDED.open() as file:
        return list(csv.DictReader(file))


def served(name: str) -> ModelSpec:
    """The model as its name does not tell it: the recorded starts had Gemma 3 read images, which it does not
    unless SGLang is told to (``test_sglang_starts.py``)."""
    model = load_model(name)
    return model.model_copy(update={"name": "x", "family": "x"}) if name.startswith("gemma-3") else model


def asked(row: dict[str, str]) -> Asked:
    major, minor, patch = map(int, row["version"].split("."))
    options = {key: int(row[key]) if row[key] else None for key in ("chunk", "running", "context")}
    return Asked(
        (major, minor, patch), load_gpu(row["gpu"]), served(row["model"]), tp=int(row["tp"]),
        pp=int(row["pp"]), ranks=int(row["ranks"]), drafts=row["drafts"], graphs=row["graphs"] == "1",  # type: ignore[arg-type]
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("version", sorted({row["version"] for row in rows()}))
def test_defaults_equal_sglangs(version: str) -> None:
    compared = [row for row in rows() if row["version"] == version]
    assert len(compared) == 20
    for row in compared:
        start = asked(row)
        found = sglang_reserve(start)
        assert (found.chunk, found.graph_max_batch) == (int(row["chunk_found"]), int(row["batch_found"])), row
        assert found.share == pytest.approx(float(row["share_found"]), abs=2e-6), row
        assert (prefill_graph_mib(start, 8192) > 0) == (row["prefill_graphs"] == "1"), row
