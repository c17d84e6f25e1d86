"""Dirty tables are refused with their place; unknown rows are counted, not hidden."""

import numpy as np
import pandas as pd
import pytest

from kvplan.errors import DataError, UnknownName
from kvplan.latency.fit.calibrate import calibrate
from kvplan.latency.fit.possible import check_rates
from kvplan.latency.fit.tables import read_measurements


def rows(count=6, **over):
    base = {
        "op_name": "generation_attention", "kernel_source": "k", "device": "NVIDIA H100 80GB HBM3",
        "framework": "X", "version": "1", "kv_cache_dtype": "bfloat16", "batch_size": 4, "isl": 1,
        "step": [2 ** (4 + i % 12) - 1 for i in range(count)], "num_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "latency": [0.01 + 0.001 * i for i in range(count)],
    }  # fmt: skip
    return pd.DataFrame({**base, **over}, index=range(count))


def written(tmp_path, frame, suffix=".parquet"):
    path = tmp_path / f"t{suffix}"
    if suffix in (".csv", ".txt"):
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".txt"])
def test_a_table_becomes_families_in_si_units(tmp_path, suffix):
    read = read_measurements([written(tmp_path, rows(), suffix)])
    (family,) = read.families
    assert family.op == "generation_attention"
    assert family.labels == {"kernel_source": "k", "kv_cache_dtype": "bfloat16", "head_dim": "128"}
    assert family.shapes["ctx"].tolist() == [16.0, 32.0, 64.0, 128.0, 256.0, 512.0]
    assert family.shapes["window"].tolist() == [0.0] * 6
    assert family.seconds[0] == pytest.approx(1e-5)
    assert len(read.inputs[0].sha256) == 64


def test_a_directory_is_searched_for_tables_whatever_csv_is_called(tmp_path):
    written(tmp_path, rows(), ".txt")
    (tmp_path / "LICENSE.txt").write_text("Redistribution and use, with or without latency, are permitted\n")
    (tmp_path / "notes.md").write_text("op_name,latency\n")
    read = read_measurements([tmp_path])
    assert [item.path for item in read.inputs] == [str(tmp_path / "t.txt")]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".txt"])
def test_a_pointer_to_a_table_says_how_to_get_it(tmp_path, suffix):
    path = tmp_path / f"gemm_perf{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8\n")
    for place in (path, tmp_path):
        with pytest.raises(DataError, match="pointer of Git LFS") as caught:
            read_measurements([place])
        assert "git lfs pull" in caught.value.hint


def test_families_are_split_by_format_and_head_size(tmp_path):
    frame = pd.concat([rows(), rows(kv_cache_dtype="fp8"), rows(head_dim=64)])
    read = read_measurements([written(tmp_path, frame)])
    assert len(read.families) == 3
    assert {f.shapes["kv_element_bytes"][0] for f in read.families} == {1.0, 2.0}


@pytest.mark.parametrize("bad", [np.nan, -0.1, 0.0, np.inf])
def test_latencies_that_are_no_times_are_refused_with_their_row(tmp_path, bad):
    latency = [0.01, 0.01, bad, 0.01, 0.01, 0.01]
    with pytest.raises(DataError, match="1 of 6 latencies") as caught:
        read_measurements([written(tmp_path, rows(latency=latency))])
    assert caught.value.where.endswith("row 2")


@pytest.mark.parametrize("name", ["latency", "op_name", "device", "head_dim", "step"])
def test_missing_columns_are_named(tmp_path, name):
    with pytest.raises(DataError, match=name):
        read_measurements([written(tmp_path, rows().drop(columns=name))])


def test_unknown_ops_are_counted_and_alone_are_an_error(tmp_path):
    odd = rows(op_name="dreaming")
    read = read_measurements([written(tmp_path, pd.concat([rows(), odd]))])
    assert any("6 rows of 'dreaming'" in note for note in read.notes)
    with pytest.raises(DataError, match="no measurements of a known kernel"):
        read_measurements([written(tmp_path, odd)])


def test_two_gpus_in_one_table_are_refused(tmp_path):
    frame = pd.concat([rows(), rows(device="NVIDIA L40S")])
    with pytest.raises(DataError, match="several GPUs"):
        read_measurements([written(tmp_path, frame)])


def test_files_that_are_no_tables_are_refused(tmp_path):
    for name in ("a.parquet", "b.csv"):
        path = tmp_path / name
        path.write_bytes(b"\x00\x01 nothing" if name.endswith("parquet") else b"")
        with pytest.raises(DataError):
            read_measurements([path])


def test_a_table_faster_than_its_memory_is_refused(tmp_path):
    frame = rows(batch_size=512, latency=0.001)
    families = read_measurements([written(tmp_path, frame)]).families
    with pytest.raises(DataError, match="of the memory bandwidth"):
        check_rates(families, 3.35e12, 50e6)
    honest = read_measurements([written(tmp_path, rows(batch_size=512, latency=10.0))]).families
    check_rates(honest, 3.35e12, 50e6)


def test_single_calls_faster_than_memory_are_noise_and_said(tmp_path):
    """At 95 % of the bandwidth, 10 % noise takes some calls past it; that is no reason to refuse the rest."""
    batches = 512 + np.arange(300)
    honest = batches * 8 * 4096 * 128 * 4 / (0.95 * 3.35e12) * 1e3
    shape = {"batch_size": batches, "step": 4095, "num_key_value_heads": 8}
    noise = np.random.default_rng(0).lognormal(0.0, 0.1, 300)
    frame = rows(300, **shape, latency=honest * noise)
    families = read_measurements([written(tmp_path, frame)]).families
    (note,) = check_rates(families, 3.35e12, 50e6)
    assert "large calls are faster than the memory" in note
    for share, factor in ((0.3, 1 / 1.15), (0.05, 0.4)):
        fast = np.where(np.arange(300) < share * 300, factor, 1.1)
        frame = rows(300, **shape, latency=honest * fast)
        with pytest.raises(DataError, match="of the memory bandwidth"):
            check_rates(read_measurements([written(tmp_path, frame)]).families, 3.35e12, 50e6)


def test_what_is_no_time_is_named_as_a_number(tmp_path):
    with pytest.raises(DataError, match="the first is nan"):
        read_measurements([written(tmp_path, rows(latency=float("nan")))])


def test_a_device_without_a_spec_is_told_how_to_get_one(tmp_path):
    with pytest.raises(DataError, match="'NVIDIA FooBar 9000', a GPU that has no spec") as caught:
        calibrate([str(written(tmp_path, rows(device="NVIDIA FooBar 9000")))])
    assert "--gpu-spec" in caught.value.hint
    with pytest.raises(UnknownName):
        calibrate([str(written(tmp_path, rows(device="NVIDIA FooBar 9000")))], gpu="foobar")


@pytest.mark.parametrize(("factor", "said"), [(1.05, None), (1.4, "40% in the median")])
def test_shapes_that_were_timed_by_two_engines_are_said(tmp_path, factor, said):
    """Of one collector two runs agree; of two versions in one table, without a column that says so, they do not."""
    once = rows(30, step=[2**6 + i for i in range(30)])
    again = once.assign(latency=once["latency"] * factor)
    read = read_measurements([written(tmp_path, pd.concat([once, again]))])
    found = [note for note in read.notes if "times of one shape" in note]
    assert bool(found) == (said is not None)
    assert said is None or said in found[0]
    outlier = once.assign(latency=once["latency"] * [3.0 if i == 4 else 1.0 for i in range(30)])
    read = read_measurements([written(tmp_path, pd.concat([once, outlier]))])
    assert not any("times of one shape" in note for note in read.notes), "one time that failed is no version"
    few = read_measurements([written(tmp_path, pd.concat([once, again.head(10)]))])
    assert not any("times of one shape" in note for note in few.notes)
