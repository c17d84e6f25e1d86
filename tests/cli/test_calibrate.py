"""``kvplan calibrate``: fitting without a GPU, showing a profile, and saying no."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvplan.cli.app import run
from kvplan.latency.fit.decode import DecodeAttention
from kvplan.latency.fit.structure import Hardware


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of a decode kernel that follows the formula, with 2 % noise."""
    rows = [
        (batch, ctx, heads * group, heads)
        for batch in (1, 8, 64, 256)
        for ctx in (64, 512, 4096, 32768)
        for heads in (1, 8)
        for group in (1, 4)
        if batch * ctx * heads * 512 < 4e9
    ]
    batch, ctx, queries, heads = np.array(rows, dtype=float).T
    structure = DecodeAttention(Hardware("l4", 58, 3e11, 48e6, 1.2e14))
    shapes = {"batch": batch, "ctx": ctx, "window": 0 * ctx, "q_heads": queries, "kv_heads": heads,
              "head_dim": 0 * ctx + 128, "kv_element_bytes": 0 * ctx + 2}  # fmt: skip
    seconds = structure.seconds(np.array([p.start for p in structure.parameters()]), shapes)
    seconds *= np.exp(np.random.default_rng(0).normal(0, 0.02, seconds.size))
    frame = pd.DataFrame(
        {"op_name": "generation_attention", "kernel_source": "mine", "device": "l4", "framework": "mine",
         "version": "1", "kv_cache_dtype": "bfloat16", "batch_size": batch, "isl": 1, "step": ctx - 1,
         "num_heads": queries, "num_key_value_heads": heads, "head_dim": 128, "latency": seconds * 1e3}
    )  # fmt: skip
    path = tmp_path_factory.mktemp("measured") / "decode.parquet"
    frame.to_parquet(path)
    return path


def test_fitting_writes_a_profile_and_prints_held_out_error(table, tmp_path, capsys):
    out = tmp_path / "mine.json"
    assert run(["calibrate", "--from", str(table), "-o", str(out), "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "kvplan.calibrate/1"
    assert answer["gpu"] == "l4"
    (kernel,) = answer["kernels"]
    assert kernel["held_out"]["tested"] + kernel["fitted_on"] == len(pd.read_parquet(table))
    assert kernel["held_out"]["median"] < 0.1
    stored = json.loads(out.read_text(encoding="utf-8"))
    assert stored["schema"] == "kvplan.profile/1"
    assert run(["calibrate", "show", str(out)]) == 0
    text = capsys.readouterr().out
    assert "Profile l4 of l4: 1 kernels" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_same_measurements_give_the_same_profile(table, tmp_path, capsys):
    for name in ("a.json", "b.json"):
        words = ["calibrate", "--from", str(table), "-o", str(tmp_path / name), "--points", "30"]
        assert run(words) == 0
    capsys.readouterr()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_first_line_comes_before_the_work_and_the_profile_whole(table, tmp_path, capsys, monkeypatch):
    import kvplan.latency.fit.calibrate as fitting

    out, seen = tmp_path / "mine.json", []

    def stopped(*places, **options):
        seen.append(capsys.readouterr().err)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "calibrate", stopped)
    out.write_text("old")
    run(["calibrate", "--from", str(table), "-o", str(out)])
    assert seen == [f"reading {table}\n"]
    monkeypatch.undo()

    def broken(profile):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kvplan.latency.fit.profile_file.profile_text", broken)
    assert run(["calibrate", "--from", str(table), "-o", str(out), "--points", "30"]) == 1
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_a_bundled_profile_is_shown_in_every_format(form, capsys):
    assert run(["calibrate", "show", "h100-sxm", "--format", form]) == 0
    text = capsys.readouterr().out
    assert "generation_attention" in text
    assert ("%" in text) is (form in ("table", "md"))
    if form == "table":
        assert "Apache-2.0" in text
        assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["calibrate"], 2, "say where measurements come from"),
        (["calibrate", "--from", "x.csv"], 2, "say where the profile goes"),
        (["calibrate", "--from", "x.csv", "--gpu", "0", "-o", "y.json"], 2, "one of them"),
        (["calibrate", "--from", "nowhere.csv", "-o", "y.json"], 1, "No such file"),
        (["calibrate", "show", "h100-sxn"], 2, "h100-sxm"),
    ],
)
def test_what_cannot_be_done_is_said(words, code, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(words) == code
    assert message in capsys.readouterr().err


def test_measuring_without_torch_lacks_something(tmp_path, capsys, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    assert run(["calibrate", "--gpu", "0", "-o", str(tmp_path / "p.json")]) == 4
    assert "torch" in capsys.readouterr().err


def test_tables_of_another_gpu_than_named_are_refused(table, tmp_path, capsys):
    code = run(["calibrate", "--from", str(table), "--gpu-spec", "h100-sxm", "-o", str(tmp_path / "p.json")])
    assert code == 1
    assert "not of h100-sxm" in capsys.readouterr().err


def test_show_without_a_name_lists_the_bundled_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", "show", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)["profiles"]
    assert {item["gpu"] for item in listed} >= {"h100-sxm", "a100-80g"}
    for item in listed:
        assert run(["calibrate", "show", item["name"], "--format", "json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["kernels"]) == item["kernels"]
    assert run(["calibrate", "show"]) == 0
    shown = capsys.readouterr().out
    assert all(item["name"] in shown for item in listed)
    assert max(map(len, shown.splitlines())) <= 80


def test_show_says_what_is_wrong_about_its_own_argument(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["calibrate", "show", "h100-smx"]) == 2
    told = capsys.readouterr().err
    assert "h100-sxm" in told
    assert "latency.name" not in told
    fitted = tmp_path / "fitted.json"
    fitted.write_text('{"schema": "kvplan.engine-fit/1"}')
    assert run(["calibrate", "show", str(fitted)]) == 1
    assert "latency: {model: fitted, name: " in capsys.readouterr().err
