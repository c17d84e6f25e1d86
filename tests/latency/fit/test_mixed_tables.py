"""Folders as collectors leave them: tables of every kind of kernel, engine and version, and other files."""

import os

import numpy as np
import pandas as pd
import pytest

from kvplan.errors import DataError
from kvplan.latency.fit.calibrate import calibrate
from kvplan.latency.fit.possible import believable, computes_in
from kvplan.latency.fit.tables import Family, read_measurements
from kvplan.latency.table_formats import multiplication, runs

WHO = {"framework": "SGLang", "version": "0.5", "device": "NVIDIA B200"}


def latent(count: int = 40, **over: object) -> pd.DataFrame:
    base = {
        **WHO, "op_name": "mla_generation", "kernel_source": "trtllm_mla", "mla_dtype": "bfloat16",
        "kv_cache_dtype": "bfloat16", "num_heads": 128, "batch_size": [2 ** (i % 8) for i in range(count)],
        "isl": 1, "tp_size": 1, "step": [2 ** (4 + i // 8) for i in range(count)], "latency": 0.02,
    }  # fmt: skip
    return pd.DataFrame({**base, **over}, index=range(count))


def sums(device: str = "NVIDIA B200") -> pd.DataFrame:
    size = 2 ** np.arange(8.0, 40.0, 0.5)
    noise = np.random.default_rng(1).lognormal(0.0, 0.02, size.size)
    return pd.DataFrame(
        {**WHO, "device": device, "op_name": "all_reduce", "kernel_source": "x",
         "allreduce_dtype": "bfloat16", "num_gpus": 2, "message_size": size,
         "latency": (0.006 + size / 3e8) * noise}
    )  # fmt: skip


def prompts(latency: object, **over: object) -> pd.DataFrame:
    base = {
        **WHO, "op_name": "context_attention", "kernel_source": "k", "batch_size": [4, 8] * 20, "isl": 16384,
        "num_heads": [2 ** (i % 5 + 2) for i in range(40)], "num_key_value_heads": 4, "head_dim": 128,
        "attn_dtype": "bfloat16", "kv_cache_dtype": "fp8", "step": 0,
    }  # fmt: skip
    frame = pd.DataFrame({**base, **over}, index=range(40))
    pairs = frame["batch_size"] * frame["num_heads"] * 16384.0**2 / 2
    return frame.assign(latency=1e3 * 4.0 * pairs * frame["head_dim"] / 2.25e15 * latency)


PAIRED = pd.DataFrame({**WHO, "op_name": "normal", "num_token": [1, 8], "dispatch_transmit_us": 20.0})
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8\n"


def test_what_a_folder_holds_beside_tables_is_left_out_and_said(tmp_path):
    sums().to_parquet(tmp_path / "custom_allreduce_perf.parquet")
    PAIRED.to_parquet(tmp_path / "other_perf.parquet")
    PAIRED.to_csv(tmp_path / "other_perf.txt", index=False)
    pd.DataFrame({"forward_ms": [1.0]}).to_parquet(tmp_path / "forward_perf.parquet")
    (tmp_path / "gemm_perf.txt").write_text(POINTER)
    (tmp_path / "REUSE.txt").write_text("see the tables of 0.5.10, latency\n")
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    read = read_measurements([tmp_path])
    assert [family.op for family in read.families] == ["all_reduce"]
    assert [item.path for item in read.inputs] == [str(tmp_path / "custom_allreduce_perf.parquet")]
    for name in ("other_perf.parquet", "other_perf.txt", "forward_perf", "gemm_perf.txt", "broken"):
        assert any(name in note and "left out" in note for note in read.notes), name
    assert not any("REUSE" in note for note in read.notes)


def test_a_file_that_is_named_must_be_a_table(tmp_path):
    sums().to_parquet(tmp_path / "sums.parquet")
    PAIRED.to_csv(tmp_path / "other_perf.txt", index=False)
    with pytest.raises(DataError, match="needs the columns latency"):
        read_measurements([tmp_path / "sums.parquet", tmp_path / "other_perf.txt"])


def test_a_folder_without_any_table_says_why_of_the_first(tmp_path):
    (tmp_path / "gemm_perf.txt").write_text(POINTER)
    sums().drop(columns="num_gpus").to_csv(tmp_path / "sums.csv", index=False)
    with pytest.raises(DataError, match="pointer of Git LFS"):
        read_measurements([tmp_path])


def test_an_op_that_cannot_be_read_leaves_the_others_of_its_file(tmp_path):
    path = tmp_path / "all.csv"
    pd.concat([sums(), latent(batch_size=0)]).to_csv(path, index=False)
    read = read_measurements([path])
    assert [family.op for family in read.families] == ["all_reduce"]
    assert any("batch_size" in note and "left out" in note for note in read.notes)


def test_a_table_of_nothing_usable_says_what_was_left_out(tmp_path):
    latent(mla_dtype="fp8_block").to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="no measurements of a known kernel") as caught:
        read_measurements([tmp_path / "t.csv"])
    assert "mla_dtype fp8_block" in str(caught.value.hint)


def test_heads_follow_from_ranks_where_tables_name_no_heads(tmp_path):
    """First tables of attention over latents, all of one model, say how many ranks share its 128 heads."""
    latent(tp_size=[2 ** (i % 4) for i in range(40)]).drop(columns="num_heads").to_csv(
        tmp_path / "t.csv", index=False
    )
    (family,) = read_measurements([tmp_path / "t.csv"]).families
    assert family.shapes["q_heads"][:4].tolist() == [128.0, 64.0, 32.0, 16.0]
    latent().drop(columns=["num_heads", "tp_size"]).to_csv(tmp_path / "u.csv", index=False)
    with pytest.raises(DataError, match="num_heads"):
        read_measurements([tmp_path / "u.csv"])


def test_attention_timed_with_its_layers_matrices_is_no_bare_kernel(tmp_path):
    pd.concat([latent(), latent(mla_dtype="fp8_block", latency=0.2)]).to_csv(tmp_path / "t.csv", index=False)
    (family,) = (read := read_measurements([tmp_path / "t.csv"])).families
    assert family.seconds.max() == pytest.approx(2e-5)
    assert any("mla_dtype fp8_block is none that attention alone" in note for note in read.notes)


def test_a_kernel_may_stand_behind_the_format():
    assert multiplication("w4a8_mxfp4_mxfp8_trtllm") == multiplication("w4a8_mxfp4_mxfp8")
    assert multiplication("w4a16_mxfp4_cutlass") == multiplication("w4a16_mxfp4")
    assert runs("w4a16_mxfp4_cutlass", "mxfp4")
    assert multiplication("int8_odd") is None
    assert not runs("fp8_block_odd", "fp8_block128")


def test_queries_narrowed_to_the_cache_are_bounded_by_its_peak(tmp_path):
    """Tables call them 16 bits wide; times below the 16-bit peak say what multiplies."""
    peaks = {"bf16": 2.25e15, "fp8": 4.5e15}
    for name, factor, computes in (("fast", 0.7, "fp8"), ("slow", 1.4, "bf16")):
        prompts(factor).to_csv(tmp_path / f"{name}.csv", index=False)
        families = read_measurements([tmp_path / f"{name}.csv"]).families
        assert computes_in(families[0], peaks) == computes
        assert believable(families, 7.7e12, 126e6, peaks)[0] == list(families)
    prompts(0.7, kv_cache_dtype="bfloat16").to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="of the peak arithmetic"):
        believable(read_measurements([tmp_path / "t.csv"]).families, 7.7e12, 126e6, peaks)


def test_one_impossible_kernel_of_many_is_left_out_alone(tmp_path):
    """Of a table whose other kernels are possible, only what is not is left out; see the half of one elsewhere."""
    good = [prompts(1.5, kv_cache_dtype="bfloat16", head_dim=size) for size in (64, 128, 256)]
    bad = prompts(0.5, kv_cache_dtype="bfloat16", kernel_source="odd")
    pd.concat([*good, bad]).to_csv(tmp_path / "t.csv", index=False)
    families = read_measurements([tmp_path / "t.csv"]).families
    kept, notes = believable(families, 7.7e12, 126e6, {"bf16": 2.25e15})
    assert sorted(family.labels["head_dim"] for family in kept) == ["128", "256", "64"]
    assert {family.labels["kernel_source"] for family in kept} == {"k"}
    assert len(notes) == 1


def test_what_cannot_be_judged_does_not_save_a_table(tmp_path):
    """Small calls of other kernels say nothing of the unit that large ones show to be wrong."""
    small = [prompts(0.5, isl=size, head_dim=64, kernel_source=f"k{size}") for size in (16, 32, 64)]
    frame = pd.concat(
        [prompts(0.5, kv_cache_dtype="bfloat16"), *[part.assign(latency=0.01) for part in small]]
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    families: tuple[Family, ...] = read_measurements([tmp_path / "t.csv"]).families
    assert len(families) == 4
    with pytest.raises(DataError, match="of the peak arithmetic"):
        believable(families, 7.7e12, 126e6, {"bf16": 2.25e15})


def test_of_several_gpus_one_is_fitted_when_it_is_named(tmp_path):
    sums().to_csv(tmp_path / "a.csv", index=False)
    sums("NVIDIA L40S").to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(DataError, match="several GPUs: NVIDIA B200, NVIDIA L40S") as caught:
        calibrate([str(tmp_path)])
    assert "--gpu-spec" in str(caught.value.hint)
    profile, _ = calibrate([str(tmp_path)], gpu="b200")
    assert (profile.gpu, len(profile.kernels)) == ("b200", 1)
    assert any("b.csv" in note and "NVIDIA L40S" in note for note in profile.notes)
    with pytest.raises(DataError, match="not of a30"):
        calibrate([str(tmp_path)], gpu="a30")


def test_two_names_of_one_gpu_are_one(tmp_path):
    sums().to_csv(tmp_path / "a.csv", index=False)
    sums("b200-sxm").assign(kernel_source="y").to_csv(tmp_path / "b.csv", index=False)
    profile, _ = calibrate([str(tmp_path)])
    assert len(profile.kernels) == 2


@pytest.mark.parametrize(("engine", "dim"), [("VLLM", 544.0), ("SGLang", 160.0), ("TRTLLM", 160.0)])
def test_only_vllms_backends_of_latents_read_a_prompts_as_they_are(tmp_path, engine, dim):
    frame = latent(
        op_name="mla_context_module", framework=engine, isl=512, step=0, gemm_type="bfloat16",
        model="deepseek-ai/DeepSeek-V3",
    )  # fmt: skip
    frame.to_csv(tmp_path / "t.csv", index=False)
    (family,) = read_measurements([tmp_path / "t.csv"]).families
    assert set(family.shapes["head_dim"]) == {dim}


def test_links_to_nothing_and_pipes_of_a_folder_are_left_out(tmp_path):
    sums().to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "itself.parquet").symlink_to("itself.parquet")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    read = read_measurements([tmp_path])
    assert [family.op for family in read.families] == ["all_reduce"]
    for name in ("gone.csv", "itself.parquet", "pipe.csv"):
        assert sum(name in note for note in read.notes) == 1
    with pytest.raises(FileNotFoundError):
        read_measurements([tmp_path / "gone.csv"])


def test_a_column_twice_is_refused_before_pandas_calls_it_otherwise(tmp_path):
    path = tmp_path / "a.csv"
    head, *lines = sums().to_csv(index=False).splitlines()
    path.write_text("\n".join([f"{head},latency", *(f"{line},1" for line in lines)]))
    with pytest.raises(DataError, match="several columns are called latency"):
        read_measurements([path])


def test_messages_do_not_repeat_what_is_endless(tmp_path):
    sums().assign(kernel_source="x" * 100_000).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "b.csv").write_text(f"{'y' * 5000},z\n1,2\n")
    for name in ("a.csv", "b.csv"):
        with pytest.raises(DataError) as caught:
            read_measurements([tmp_path / name])
        assert len(str(caught.value)) < 500
