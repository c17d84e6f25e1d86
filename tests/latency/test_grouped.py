"""Routed experts: tiles, activations, and what they do to a step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.latency.datasheet import Datasheet, clock_hz
from kvplan.latency.efficiency import HOPPER
from kvplan.latency.grouped import TILES, assignment_elements, tiled_rows
from kvplan.latency.work import step_work
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format


def test_rows_by_hand() -> None:
    assert tiled_rows(0.0, 0.0) == 0.0
    # One row an expert: a least tile each.
    assert tiled_rows(8.0, 8.0) == 8 * 16
    # 64 rows an expert in tiles of 64: half a tile more.
    assert tiled_rows(640.0, 10.0) == 640 + 10 * 32
    # Many rows: half of the largest tile an expert.
    assert tiled_rows(80_000.0, 8.0) == 80_000 + 8 * 64


@given(
    touched=st.floats(1, 512), more_touched=st.floats(1, 2), each=st.floats(1, 1e5), more=st.floats(1, 10),
)  # fmt: skip
def test_laws_of_rows(touched: float, more_touched: float, each: float, more: float) -> None:
    rows = tiled_rows(touched * each, touched)
    assert max(touched * each, touched * TILES[0]) <= rows <= touched * each + touched * TILES[1]
    assert rows <= tiled_rows(touched * each * more, touched) * (1 + 1e-12)
    assert rows <= tiled_rows(touched * more_touched * each, touched * more_touched) * (1 + 1e-12)


def test_activations_of_an_assignment_by_hand() -> None:
    # Read the row, write gate and up, read them, write their product, read it, write and read the result.
    assert assignment_elements(2048, 768, gated=True) == 2048 + 2 * 768 + 2 * 768 + 768 + 768 + 2 * 2048
    assert assignment_elements(2048, 768, gated=False) == 2048 + 768 + 768 + 768 + 768 + 2 * 2048


def test_a_layer_of_experts_by_hand() -> None:
    work = step_work(load_model("mixtral-8x7b"), parallel=Parallel(tp=2), kv_format=kv_format("bf16"))
    (item,) = work.experts
    sheet = Datasheet(load_gpu("h100-sxm"), HOPPER)
    gemm, rate = HOPPER.gemm, 3.35e12 * HOPPER.gemm.memory
    # 100 tokens choose 2 of 8 experts each: all are touched, by 25 rows in tiles of 25.
    touched = 8 * (1 - (1 + 100 * (0.75**-0.25 - 1)) ** -4)
    rows = 200 + touched * (200 / touched) / 2
    compute = rows * 2 * 3 * 4096 * 7168 / (989.4e12 * gemm.compute * 0.8)
    memory = touched * 3 * 4096 * 7168 * 2 / rate
    activations = 200 * (3 * 4096 + 6 * 7168) * 2 / rate
    want = 2 * gemm.floor_cycles / clock_hz(sheet.gpu) + 8e-6 + activations
    want += (compute**gemm.sharpness + memory**gemm.sharpness) ** (1 / gemm.sharpness)
    assert sheet.experts(item, 100.0) == pytest.approx(want)


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_a_popular_few_experts_are_read_sooner(clock_of: Any, kind: str) -> None:
    batch = StepBatch(64, 64_000, 64, 64_000, [], 64)
    even = clock_of(kind, "qwen3-30b-a3b", routing_skew=0).model.step_seconds(batch)
    assert clock_of(kind, "qwen3-30b-a3b", routing_skew=1).model.step_seconds(batch) < even
