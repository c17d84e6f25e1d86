"""Tables that no GPU of that name can have measured, or not in that unit, are refused by what they imply."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvplan.errors import DataError
from kvplan.latency.fit.possible import check_arithmetic
from kvplan.latency.fit.tables import Family, read_measurements

PEAKS = {"bf16": 1e15, "fp8": 2e15}
M, N, K = 8192.0 + np.arange(40.0), 8192.0, 4096.0
AT_PEAK_MS = 2e3 * M * N * K / PEAKS["bf16"]


def gemms(tmp_path: Path, factor: float, dtype: str = "bfloat16", mark: str = ",") -> Family:
    """A table that takes ``factor`` times as long as the peak."""
    frame = pd.DataFrame(
        {
            "device": "NVIDIA H100", "op_name": "gemm", "gemm_dtype": dtype, "m": M, "n": N, "k": K,
            "latency": factor * AT_PEAK_MS * np.linspace(1.0, 1.1, 40),
        }
    )  # fmt: skip
    path = tmp_path / "gemm_perf.csv"
    frame.to_csv(path, index=False, sep=mark)
    (family,) = read_measurements([path]).families
    return family


@pytest.mark.parametrize("factor", [1.02, 1.3, 20.0])
def test_what_kernels_reach_is_taken(factor: float, tmp_path: Path) -> None:
    check_arithmetic(gemms(tmp_path, factor), PEAKS)


def test_more_than_the_peak_is_another_gpu(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="200% of the peak arithmetic of NVIDIA H100"):
        check_arithmetic(gemms(tmp_path, 0.5), PEAKS)
    check_arithmetic(gemms(tmp_path, 0.55, "fp8"), PEAKS)  # fp8 has a peak of its own
    check_arithmetic(gemms(tmp_path, 0.5, "nvfp4"), PEAKS)  # and of this one nobody says any


def test_microseconds_are_not_milliseconds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at best") as caught:
        check_arithmetic(gemms(tmp_path, 1300.0), PEAKS)
    assert "latency_us" in str(caught.value.hint)


@pytest.mark.parametrize("op", ["context_attention", "mla_context"])
@pytest.mark.parametrize("window", [0.0, 4096.0])
def test_a_table_of_windows_in_microseconds_is_refused_too(op: str, window: float) -> None:
    """Half of the rows see all before them, so the table was not looked at while windows were not counted."""
    shapes = {
        "batch": 8.0, "new": 16384.0, "before": 1024.0, "q_heads": 64.0, "kv_heads": 8.0,
        "head_dim": 128.0, "kv_element_bytes": 2.0,
    }  # fmt: skip
    columns = {name: np.full(40, value) for name, value in shapes.items()}
    columns["window"] = np.where(np.arange(40) % 2, window, 0.0)
    positions = np.arange(1024.0, 1024.0 + 16384.0) + 0.5
    pairs = np.array([np.minimum(positions, w or np.inf).sum() for w in columns["window"]])
    least = 4.0 * 8.0 * 64.0 * 128.0 * pairs / PEAKS["bf16"]
    check_arithmetic(Family(op, {}, "G", "1", columns, 1.01 * least, "t.csv"), PEAKS)
    for factor in (0.7, 1500.0):
        with pytest.raises(DataError, match="peak arithmetic"):
            check_arithmetic(Family(op, {}, "G", "1", columns, factor * least, "t.csv"), PEAKS)


@pytest.mark.parametrize("length", [1024.0, 16384.0])
def test_prompt_attention_too(length: float) -> None:
    shapes = {
        "batch": 4.0, "new": length, "before": 0.0, "window": 0.0, "q_heads": 64.0, "kv_heads": 8.0,
        "head_dim": 128.0, "kv_element_bytes": 2.0,
    }  # fmt: skip
    columns = {name: np.full(40, value) for name, value in shapes.items()}
    least = 2.0 * 4.0 * 64.0 * 128.0 * length**2 / PEAKS["bf16"]
    slow = Family("context_attention", {}, "G", "1", columns, np.full(40, 3000.0 * least), "t.csv")
    fast = Family("context_attention", {}, "G", "1", columns, np.full(40, 0.5 * least), "t.csv")
    if length < 4096:  # too short to be bounded by arithmetic
        check_arithmetic(slow, PEAKS)
        check_arithmetic(fast, PEAKS)
        return
    for family in (slow, fast):
        with pytest.raises(DataError, match="peak arithmetic"):
            check_arithmetic(family, PEAKS)


def test_columns_may_be_parted_by_semicolons(tmp_path: Path) -> None:
    assert gemms(tmp_path, 1.3, mark=";").seconds.size == 40


def test_a_table_without_its_columns_is_told_which_it_has(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("op,device,avg_ms\ngemm,NVIDIA H100,1\n")
    with pytest.raises(DataError, match="needs the columns op_name, latency; this has op, device, avg_ms"):
        read_measurements([path])
