"""Tables as collectors write them on other GPUs and engines: other names, formats, columns and bad rows."""

import numpy as np
import pandas as pd
import pytest

from kvplan.errors import DataError
from kvplan.latency.fit.choose import hardware_of, structures_for
from kvplan.latency.fit.design import maximin, spread
from kvplan.latency.fit.possible import check_rates
from kvplan.latency.fit.tables import read_measurements
from kvplan.specs.catalog import load_gpu
from kvplan.specs.schema import GpuSpec


def decode(count: int = 60, **over: object) -> pd.DataFrame:
    base = {
        "framework": "TRTLLM", "version": "1.0", "device": "NVIDIA B200", "op_name": "generation_attention",
        "kernel_source": "trtllm_gen", "batch_size": [4 + i // 12 for i in range(count)], "isl": 1,
        "num_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "beam_width": 1,
        "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16",
        "step": [2 ** (4 + i % 12) - 1 for i in range(count)], "latency": 0.02,
    }  # fmt: skip
    return pd.DataFrame({**base, **over}, index=range(count))


def gemm(dtype: str, count: int = 60, **over: object) -> pd.DataFrame:
    base = {
        "framework": "TRTLLM", "version": "1.0", "device": "NVIDIA B200", "op_name": "gemm",
        "kernel_source": "torch_flow", "gemm_dtype": dtype, "m": [2 ** (i % 14) for i in range(count)],
        "n": [2 ** (9 + i % 5) for i in range(count)], "k": 4096, "latency": 0.05,
    }  # fmt: skip
    return pd.DataFrame({**base, **over}, index=range(count))


def read(tmp_path, *frames, suffix=".csv"):
    path = tmp_path / f"t{suffix}"
    table = pd.concat(frames)
    if suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return read_measurements([path])


def test_ops_in_one_file_keep_whole_head_sizes(tmp_path):
    """Columns that one op lacks turn the others' whole numbers into fractions."""
    found = read(tmp_path, decode(), gemm("bfloat16")).families
    (attention,) = [family for family in found if family.op == "generation_attention"]
    assert attention.labels["head_dim"] == "128"


def test_a_column_with_gaps_still_tells_kernels_apart(tmp_path):
    frame = pd.concat([decode(), decode(kernel_source=None), decode(kernel_source="flash attention ")])
    found = read(tmp_path, frame).families
    assert sorted(family.labels["kernel_source"] for family in found) == [
        "flash attention", "trtllm_gen", "unknown",
    ]  # fmt: skip
    assert sum(family.seconds.size for family in found) == len(frame)


def test_names_of_columns_and_texts_may_have_spaces_around_them(tmp_path):
    frame = decode(device=" NVIDIA B200", op_name="generation_attention ", kv_cache_dtype=" fp8")
    frame.columns = [f" {name}" for name in frame.columns]
    (family,) = read(tmp_path, frame).families
    assert family.device == "NVIDIA B200"
    assert family.labels["kv_cache_dtype"] == "fp8"


def test_a_table_without_any_label_is_one_family(tmp_path):
    frame = decode(op_name="mla_generation").drop(
        columns=["kernel_source", "kv_cache_dtype", "head_dim", "version"]
    )
    (family,) = read(tmp_path, frame).families
    assert (family.labels, family.title) == ({}, "mla_generation")


def test_rows_without_an_op_are_counted(tmp_path):
    found = read(tmp_path, decode(), decode(3, op_name=None))
    assert any("3 rows without op_name" in note for note in found.notes)


def test_a_few_failed_rows_are_left_out_and_counted_many_refuse_the_table(tmp_path):
    bad = decode(200, latency=[0.0, float("nan"), *[0.02] * 198])
    found = read(tmp_path, bad)
    assert found.families[0].seconds.size == 198
    assert any("2 of 200 latencies" in note for note in found.notes)
    with pytest.raises(DataError, match="10 of 200 latencies"):
        read(tmp_path, decode(200, latency=[0.0] * 10 + [0.02] * 190))


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", "four"), ("num_key_value_heads", 0), ("head_dim", 0), ("latency", "fast")],
)
def test_what_is_no_size_is_named(tmp_path, name, value):
    with pytest.raises(DataError, match=r"is no|are no|not positive") as caught:
        read(tmp_path, decode(**{name: value}))
    assert name in f"{caught.value.message} latency"


def test_no_window_is_written_in_several_ways(tmp_path):
    windows = [None, -1, 0] * 20
    (family,) = read(tmp_path, decode(window_size=windows)).families
    assert family.shapes["window"].tolist() == [0.0] * 60


def test_versions_in_one_file_are_kernels_of_their_own(tmp_path):
    """Two versions of a kernel under one name are no measurement of either."""
    found = read(tmp_path, decode(version="0.9.0"), decode(version="0.10.1", latency=0.03)).families
    assert [(family.version, family.seconds[0]) for family in found] == [
        ("TRTLLM 0.9.0", 2e-5), ("TRTLLM 0.10.1", 3e-5),
    ]  # fmt: skip


def test_attention_that_computes_in_another_format_is_another_kernel(tmp_path):
    """Context attention over an 8-bit cache with 16-bit and with 8-bit queries."""
    rows = {"op_name": "context_attention", "kv_cache_dtype": "fp8", "isl": 512, "step": 0}
    found = read(tmp_path, decode(**rows), decode(**rows, attn_dtype="fp8", latency=0.01)).families
    assert len(found) == 2
    peaks = [structures_for(family, load_gpu("b200"))[0].hardware.tensor_flops for family in found]  # type: ignore[attr-defined]
    assert sorted(peaks) == [2.25e15, 4.5e15]


def test_a_cache_format_nobody_knows_is_left_out_by_name_with_the_rest_kept(tmp_path):
    found = read(tmp_path, decode(), decode(7, kv_cache_dtype="fp6_odd"))
    assert len(found.families) == 1
    assert any("7 rows" in note and "fp6_odd" in note for note in found.notes)


@pytest.mark.parametrize(
    ("dtype", "weights", "inputs", "peak"),
    [("bfloat16", 2.0, 2.0, 2.25e15), ("float16", 2.0, 2.0, 2.25e15), ("fp8", 1.0, 1.0, 4.5e15),
     ("fp8_block", 1.0, 1.0, 4.5e15), ("nvfp4", 0.5625, 0.5625, 9e15), ("int4_wo", 0.515625, 2.0, 2.25e15),
     ("int8_wo", 1.0, 2.0, 2.25e15), ("sq", 1.0, 1.0, 4.5e15)],
)  # fmt: skip
def test_multiplications_read_weights_as_wide_as_their_format(tmp_path, dtype, weights, inputs, peak):
    (family,) = read(tmp_path, gemm(dtype)).families
    (structure,) = structures_for(family, load_gpu("b200"))
    assert (structure.element_bytes, structure.input_bytes) == (weights, inputs)  # type: ignore[attr-defined]
    assert structure.hardware.tensor_flops == peak  # type: ignore[attr-defined]


def test_a_multiplication_in_a_format_nobody_knows_is_left_out_by_name(tmp_path):
    found = read(tmp_path, gemm("bfloat16"), gemm("int3_odd", 5))
    assert len(found.families) == 1
    assert any("5 rows" in note and "int3_odd" in note for note in found.notes)


def test_what_lies_in_amds_infinity_cache_is_not_faster_than_memory(tmp_path):
    """MI300X reads 256 MB faster than its memory could; such rows are no reason to refuse a table."""
    gpu = load_gpu("mi300x")
    hardware = hardware_of(gpu)
    assert hardware.l2_bytes == 256 * 2**20
    kv = 32 * 4096 * 8 * 128 * 2 * 2
    frame = decode(batch_size=32, step=4095, device="AMD Instinct MI300X", latency=kv / 9e12 * 1e3)
    assert (
        check_rates(read(tmp_path, frame).families, hardware.bandwidth_bytes_per_s, hardware.l2_bytes) == []
    )


def test_times_in_another_unit_are_refused(tmp_path):
    """Seconds or microseconds in a column of milliseconds are a thousand times off, and fit a formula all the same."""
    with pytest.raises(DataError, match="milliseconds"):
        read(tmp_path, decode(latency=2e-5))


@pytest.mark.parametrize(("name", "factor"), [("latency_ms", 1.0), ("latency_us", 1e3), ("latency_s", 1e-3)])
def test_a_latency_that_says_its_unit_is_read_in_it(tmp_path, name, factor):
    frame = decode(latency=0.02 * factor).rename(columns={"latency": name})
    (family,) = read(tmp_path, frame).families
    assert family.seconds[0] == pytest.approx(2e-5)


def sums(device: str = "NVIDIA B200") -> pd.DataFrame:
    """Sums over ranks, which are fitted in no time."""
    size = 2.0 ** np.arange(7, 27)
    noise = np.random.default_rng(0).lognormal(0.0, 0.03, size.size)
    return pd.DataFrame(
        {"framework": "VLLM", "version": "1", "device": device, "op_name": "all_reduce", "kernel_source": "x",
         "allreduce_dtype": "bfloat16", "num_gpus": 2, "message_size": size,
         "latency": (0.006 + size / 3e8) * noise}
    )  # fmt: skip


def test_a_gpu_without_links_leaves_its_collectives_out(tmp_path, monkeypatch):
    import kvplan.latency.fit.origin as origin
    from kvplan.latency.fit.calibrate import calibrate

    rng = np.random.default_rng(0)
    chunks = {"op_name": "context_attention", "device": "bare", "isl": [2 ** (i % 9) for i in range(60)],
              "step": 0, "latency": 0.05 * rng.lognormal(0, 0.05, 60)}  # fmt: skip
    sums("bare").to_csv(tmp_path / "r.csv", index=False)
    decode(60, **chunks).to_csv(tmp_path / "c.csv", index=False)
    spec = load_gpu("l4").model_dump(by_alias=True)
    spec |= {"schema": "kvplan.gpu/1", "name": "bare", "aliases": [], "interconnect": {}}
    monkeypatch.setattr(origin, "spec_of", lambda device, gpu: GpuSpec.model_validate(spec))
    profile, _ = calibrate([str(tmp_path)])
    assert [part.op for part in profile.kernels] == ["context_attention"]
    assert any("all_reduce" in note and "no link" in note for note in profile.notes)


def test_families_come_by_source_format_and_size_of_heads(tmp_path):
    found = read(tmp_path, *(decode(head_dim=size) for size in (256, 64, 128))).families
    assert [family.labels["head_dim"] for family in found] == ["64", "128", "256"]


def test_one_impossible_table_leaves_the_others(tmp_path):
    """A directory of several engines' tables is not refused for one of them; that one is, whole, by name."""
    from kvplan.latency.fit.accuracy import score_tables
    from kvplan.latency.fit.calibrate import calibrate

    broken = decode(12, batch_size=512, latency=0.002)
    pd.concat([broken, broken.assign(head_dim=64, latency=20.0)]).to_csv(tmp_path / "a_perf.txt", index=False)
    sums().to_csv(tmp_path / "r_perf.txt", index=False)
    profile, _ = calibrate([str(tmp_path)])
    assert [part.op for part in profile.kernels] == ["all_reduce"]
    (note,) = profile.notes
    assert "a_perf.txt" in note
    assert "of the memory bandwidth" in note
    assert {score.op for score in score_tables([str(tmp_path)])} == {"all_reduce"}
    with pytest.raises(DataError, match="of the memory bandwidth"):
        calibrate([str(tmp_path / "a_perf.txt")])


def test_caches_of_four_bits_and_of_the_models_own_width(tmp_path):
    found = read(tmp_path, decode(kv_cache_dtype="nvfp4"), decode(kv_cache_dtype="auto")).families
    assert sorted(float(family.shapes["kv_element_bytes"][0]) for family in found) == [0.5625, 2.0]


def test_shapes_timed_many_times_over_are_rows_of_their_own():
    points = np.repeat(np.arange(12.0), 5)[:, None]
    for choose in (maximin, spread):
        chosen = choose(points, 30)
        assert len(set(chosen.tolist())) == 30
        assert set(points[chosen, 0]) == set(range(12))


def test_a_shape_timed_again_is_one_measurement_and_said(tmp_path):
    """Fitted on one of its rows and tested on another, it would be a shape never timed that is known."""
    again = pd.concat([decode(12, latency=ms) for ms in (0.03, 0.02, 0.5)], ignore_index=True)
    found = read(tmp_path, again.sample(frac=1.0, random_state=1))
    (family,) = found.families
    assert sorted(family.shapes["ctx"]) == [2.0 ** (4 + i) for i in range(12)]
    assert family.seconds == pytest.approx([3e-5] * 12)
    assert any("24 of 36 rows" in note and "median" in note for note in found.notes)


def test_shapes_timed_once_stay_as_they_stand(tmp_path):
    steps, times = [511, 15, 127, 31], [0.04, 0.01, 0.03, 0.02]
    (family,) = read(tmp_path, decode(4, step=steps, latency=times)).families
    assert family.shapes["ctx"].tolist() == [512.0, 16.0, 128.0, 32.0]
    assert family.seconds == pytest.approx([4e-5, 1e-5, 3e-5, 2e-5])


def test_files_put_behind_one_another_keep_their_heads_out(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("".join(decode(head_dim=size).to_csv(index=False) for size in (64, 128)))
    assert [family.seconds.size for family in read_measurements([path]).families] == [60, 60]


def test_a_table_without_rows_is_said_and_the_others_read(tmp_path):
    decode().to_csv(tmp_path / "a.csv", index=False)
    decode().iloc[:0].to_csv(tmp_path / "b.csv", index=False)
    found = read_measurements([tmp_path])
    assert len(found.families) == 1
    assert any("b.csv: no rows" in note for note in found.notes)


def test_a_size_that_is_none_is_shown_as_it_stands(tmp_path):
    with pytest.raises(DataError, match=r"the first is -1$"):
        read(tmp_path, decode(step=-1))
