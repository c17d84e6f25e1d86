"""Tables of kernels that send tokens to experts: their units, what tells them apart, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kvplan.errors import DataError
from kvplan.latency.fit.dispatch import Dispatch
from kvplan.latency.fit.kernel import fit_kernel
from kvplan.latency.fit.tables import Measurements, read_measurements

RATE = 450e9


def truth(tokens: Any, copies: Any, row_bytes: Any) -> Any:
    return np.hypot(5e-5, tokens * copies * row_bytes / (0.4 * RATE)) + 2e-9 * tokens


def table(**changed: Any) -> pd.DataFrame:
    sizes = [
        (tokens, hidden, chosen, phase)
        for tokens in (1, 4, 16, 64, 256, 1024, 4096)
        for hidden in (3072, 4096, 7168)
        for chosen in (6, 8)
        for phase in ("dispatch", "combine")
    ]
    tokens, hidden, chosen, phase = map(np.array, zip(*sizes, strict=True))
    microseconds = 1e6 * truth(tokens, chosen * 7 / 8, 2 * hidden)
    return pd.DataFrame(
        {"framework": "vLLM", "version": "1.0", "device": "NVIDIA H100 80GB HBM3", "op_name": "moe_a2a",
         "comm_backend": "deepep_ll", "phase": phase, "comm_dtype": "default", "ep_size": 8, "node_num": 1,
         "hidden_size": hidden, "topk": chosen, "num_experts": 256, "num_tokens": tokens,
         "transmit_us": microseconds, "latency": microseconds}
    ).assign(**changed)  # fmt: skip


def read(folder: Path, frame: pd.DataFrame) -> Measurements:
    frame.to_csv(folder / "moe_a2a_perf.txt", index=False)
    return read_measurements([folder])


def test_both_directions_are_kernels_of_their_own_and_found_again(tmp_path: Path) -> None:
    families = read(tmp_path, table()).families
    assert [family.labels["phase"] for family in families] == ["combine", "dispatch"]
    for family in families:
        shapes = family.shapes
        assert family.seconds == pytest.approx(truth(shapes["tokens"], shapes["copies"], shapes["row_bytes"]))
        fitted = fit_kernel(Dispatch(RATE), shapes, family.seconds)
        assert np.median(np.abs(fitted.seconds(shapes) / family.seconds - 1.0)) < 0.02


def test_high_throughput_sends_a_token_once_to_a_rank(tmp_path: Path) -> None:
    (first, _) = read(tmp_path, table(comm_backend="deepep_ht")).families
    # Eight of 256 experts lie on 5.3 of eight ranks in the mean.
    assert first.shapes["copies"].max() == pytest.approx(5.3 * 7 / 8, rel=0.02)


def test_only_rows_that_say_so_are_in_microseconds(tmp_path: Path) -> None:
    sums = pd.DataFrame(
        {"device": "NVIDIA H100 80GB HBM3", "op_name": "all_gather", "nccl_dtype": "half",
         "num_gpus": [2, 4, 8], "message_size": 1 << 20, "latency": [0.02, 0.03, 0.04]}
    )  # fmt: skip
    families = {
        family.op: family for family in read(tmp_path, pd.concat([table(), sums])).families
    }  # fmt: skip
    assert families["all_gather"].seconds == pytest.approx([2e-5, 3e-5, 4e-5])
    assert families["moe_a2a"].seconds.max() < 1e-2


def test_a_column_that_names_its_unit_is_believed(tmp_path: Path) -> None:
    frame = table()
    named = frame.assign(latency_s=frame["latency"] * 1e-6).drop(columns="latency")
    one = read(tmp_path, named).families[0].seconds
    assert one == pytest.approx(read(tmp_path, frame).families[0].seconds)


@pytest.mark.parametrize(
    ("changed", "what"), [({"comm_backend": None}, "comm_backend"), ({"phase": "both"}, "phase both")]
)
def test_rows_that_do_not_say_which_kernel_they_are_of_are_left_out(
    tmp_path: Path, changed: dict[str, Any], what: str
) -> None:
    found = read(tmp_path, pd.concat([table(), table(**changed)]))
    assert {family.seconds.size for family in found.families} == {42}
    assert any("84 rows of 'moe_a2a' are left out" in note and what in note for note in found.notes)


@pytest.mark.parametrize(
    "changed", [{"num_tokens": 1e300}, {"topk": 512}, {"ep_size": 1}, {"hidden_size": 0}]
)
def test_what_is_no_shape_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        read(tmp_path, table(**changed))


def test_dispatch_is_timed_in_microseconds_whether_parts_of_it_say_so_or_not(tmp_path: Path) -> None:
    (first, *_) = read(tmp_path, table()).families
    (same, *_) = read(tmp_path, table().drop(columns="transmit_us")).families
    assert same.seconds == pytest.approx(first.seconds)
    with pytest.raises(DataError, match="no GPU ends a kernel"):
        read(
            tmp_path, table().assign(latency=lambda frame: frame["latency"] / 1e3).drop(columns="transmit_us")
        )


@pytest.mark.parametrize("times", [("_transmit_us", "_notify_us"), ("_avg_t_us",)])
def test_tables_of_both_directions_side_by_side(tmp_path, times):
    """First tables of DeepEP: sums of a direction's columns, in microseconds, on nodes of eight GPUs."""
    rows = [
        {"framework": "sglang", "version": "0.5", "device": "NVIDIA H200",
         "op_name": "normal" if len(times) > 1 else "ll",
         "node_num": nodes, "kernel_source": "deepep", "hidden_size": 7168, "num_token": tokens,
         "num_topk": 8, "num_experts": 256, "dispatch_sms": 20,
         **{f"{phase}{name}": each * tokens
            for phase, each in (("dispatch", 3.0), ("combine", 5.0)) for name in times}}
        for nodes in (1, 2) for tokens in (16, 64, 256)
    ]  # fmt: skip
    path = tmp_path / "wideep_deepep_perf.txt"
    frame = pd.DataFrame(rows)
    pd.concat([frame, frame[:2].assign(op_name="odd")]).to_csv(path, index=False)
    read = read_measurements([tmp_path])
    families = read.families
    assert any("2 rows of 'odd'" in note for note in read.notes)
    assert [family.labels["phase"] for family in families] == ["combine", "combine", "dispatch", "dispatch"]
    assert {family.labels["comm_backend"] for family in families} == {
        "deepep_ht" if len(times) > 1 else "deepep_ll"
    }
    for family in families:
        assert set(family.shapes["ranks"]) == {8.0 * float(family.labels["node_num"])}
        each = len(times) * (3e-6 if family.labels["phase"] == "dispatch" else 5e-6)
        assert family.seconds == pytest.approx(each * family.shapes["tokens"])
