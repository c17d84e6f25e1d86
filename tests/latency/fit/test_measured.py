"""From measurements of kernels to a profile: what made them is recovered, and what was held out is covered."""

import json
from pathlib import Path

import numpy as np
import pytest

from kvplan.cli.app import run
from kvplan.errors import DataError, UsageError
from kvplan.latency.fit.calibrate import calibrate
from kvplan.latency.fit.few import fit_few
from kvplan.latency.fit.kernel_measurements import KernelMeasurements
from kvplan.latency.fit.kernel_rows import kernel_rows
from kvplan.latency.fit.profile_file import profile_text, read_profile, restore_kernel
from tests.latency.conftest import VERIFYING


def fresh(format_name, count, true_seconds):
    """Shapes off the grid and their true times with noise."""
    import random

    from kvplan.kernels.bench import points

    rng, noise = random.Random(7), np.random.default_rng(9)
    chosen = []
    while len(chosen) < count:
        hq, hkv, d = rng.choice(points.HEADS)
        batch, context = rng.randint(1, 300), round(2 ** rng.uniform(9, 17))
        point = points.Point("x", "decode", format_name, hq, hkv, d, batch, context)
        if point.kv_bytes() <= points.MOST_BYTES:
            chosen.append(point)
    seconds = np.array([sum(true_seconds(p)[:2]) for p in chosen])
    columns = [
        (p.batch, p.context, 0, p.hq, p.hkv, p.d, p.kv_bytes() / (2 * p.batch * p.context * p.hkv * p.d))
        for p in chosen
    ]
    names = ("batch", "ctx", "window", "q_heads", "kv_heads", "head_dim", "kv_element_bytes")
    shapes = dict(zip(names, np.array(columns, dtype=float).T, strict=True))
    return shapes, seconds * np.exp(noise.normal(0.0, 0.015, count))


def decode_part(profile, name):
    (part,) = [
        p for p in profile.kernels if p.op == "generation_attention" and p.labels["kv_cache_dtype"] == name
    ]
    return part


@pytest.mark.slow
def test_a_whole_measurement_meets_the_bars_on_its_registered_hold_out(tmp_path, document, true_seconds):
    path = tmp_path / "m.json"
    machine = [row for row in document["ceilings"] if not row["key"].startswith("matmul")]
    path.write_text(json.dumps({**document, "ceilings": machine}), encoding="utf-8")
    profile, scores = calibrate([str(path)])
    assert scores == []
    held = profile.measured.held_out
    assert held.tested == 40
    assert held.split == "registered"
    assert held.median <= 0.04
    assert held.p90 <= 0.12
    covered = []
    for part in profile.kernels:
        if part.op == "generation_attention":
            shapes, seconds = fresh(part.labels["kv_cache_dtype"], 200, true_seconds)
            guess = restore_kernel(part, "p").predict(shapes)
            error = np.abs(guess.seconds / seconds - 1)
            assert np.median(error) <= 0.04
            assert np.quantile(error, 0.9) <= 0.12
            if part.detail.donor is None:
                covered.append(np.mean((seconds >= guess.low) & (seconds <= guess.high)))
    assert len(covered) == 6
    assert 0.85 <= np.mean(covered) <= 0.95


def test_every_format_and_ceiling_of_a_short_measurement_is_in_its_profile(own_profile, short_document):
    profile = read_profile(own_profile)
    assert profile.schema_ == "kvplan.profile/2"
    assert profile.gpu == "h100-sxm"
    measured = {(part.op, part.labels.get("kv_cache_dtype")) for part in profile.kernels}
    formats = {p["format"] for p in short_document["points"]}
    assert measured >= {("generation_attention", name) for name in formats if not name.startswith("mla")}
    assert measured >= {("mla_generation", "mla_bf16"), ("mla_generation", "mla_fp8")}
    assert measured >= {("context_attention", name) for name in ("bf16", "fp8_e4m3", "int4")}
    assert profile.measured.environment["kernels"] == "0123abcd"
    assert profile.measured.ceilings.read_bytes_per_s > 3e12
    assert len(profile.measured.ceilings.host) == 4
    assert profile_text(profile) == own_profile.read_text(encoding="utf-8")


def test_a_format_of_three_points_says_whose_formula_it_has_and_predicts_others(own_profile, true_seconds):
    profile = read_profile(own_profile)
    part = decode_part(profile, "mxfp4")
    assert part.detail.donor == "int4_g64"
    assert part.detail.fitted == ["launch_s", "bandwidth", "token_s"]
    assert part.trained_on == 3
    assert part.held_out.split == "cross-validated"
    assert part.held_out.coverage is None
    assert part.band_factor >= 1.25 * decode_part(profile, "int4_g64").band_factor * (1 - 1e-6)
    shapes, seconds = fresh("mxfp4", 200, true_seconds)
    guess = restore_kernel(part, "p").predict(shapes)
    assert np.median(np.abs(guess.seconds / seconds - 1)) <= 0.06
    assert np.mean((seconds >= guess.low) & (seconds <= guess.high)) >= 0.75


def test_the_hold_out_of_a_short_measurement_is_scored_on_exactly_its_rows(own_profile, short_document):
    profile = read_profile(own_profile)
    held = [p for p in short_document["points"] if p["stage"] == "holdout"]
    assert profile.measured.held_out.tested == len(held) == 40
    for name in ("bf16", "int4_g64"):
        part = decode_part(profile, name)
        assert part.held_out.tested == sum((p["op"], p["format"]) == ("decode", name) for p in held)
        assert part.held_out.split == "registered"
        assert part.held_out.median <= 0.04


def test_page_sizes_and_ragged_lengths_become_factors_near_the_truth(own_profile):
    detail = decode_part(read_profile(own_profile), "bf16").detail
    assert detail.pages["64"] == 1.0
    assert detail.pages["16"] == pytest.approx(1.06, abs=0.04)
    assert detail.pages["256"] == pytest.approx(0.99, abs=0.04)
    assert 0.9 < detail.ragged < 1.4


def test_guessed_tokens_become_factors_on_as_many_more_query_heads(own_profile):
    profile = read_profile(own_profile)
    details = {(part.op, part.labels.get("kv_cache_dtype")): part.detail for part in profile.kernels}
    verify = details["generation_attention", "bf16"].verify
    assert set(verify.factors) == {"2", "4", "8"}
    for tokens, truth in VERIFYING.items():
        assert verify.factors[str(tokens)] == pytest.approx(truth, rel=0.15)
    assert 0.0 < verify.deviation < 0.3
    assert details["mla_generation", "mla_fp8"].verify is not None
    # Calls that decode one token were timed in this format, and none that verify several.
    assert details["generation_attention", "kivi2"].verify is None
    assert details["context_attention", "bf16"].verify is None


def test_guessed_tokens_alone_are_no_kernel(short_document):
    read = KernelMeasurements.model_validate(
        {**short_document, "points": [p for p in short_document["points"] if p["stage"] == "verify"]}
    )
    assert kernel_rows(read.points, 132) == []


def test_times_grow_with_batch_and_context_and_are_positive(own_profile):
    for part in read_profile(own_profile).kernels:
        if part.op != "generation_attention":
            continue
        kernel = restore_kernel(part, "p")
        ones = np.ones(8)
        base = {"window": 0 * ones, "q_heads": 32 * ones, "kv_heads": 8 * ones, "head_dim": 128 * ones,
                "kv_element_bytes": part.high["kv_element_bytes"] * ones}  # fmt: skip
        sizes = 2.0 ** np.arange(8)
        for moved in ({"batch": sizes, "ctx": 8192 * ones}, {"batch": 16 * ones, "ctx": 512 * sizes}):
            seconds = kernel.seconds(base | moved)
            assert np.all(seconds > 0)
            assert np.all(np.diff(np.log(seconds)) > -0.05)
            assert seconds[-1] > 4 * seconds[0]


def test_fewer_points_than_a_few_fit_needs_are_refused(own_profile):
    kernel = restore_kernel(decode_part(read_profile(own_profile), "bf16"), "p")
    one = {name: np.array([value]) for name, value in kernel.high.items()}
    with pytest.raises(DataError, match="1 measurements of decode_attention cannot fix 2"):
        fit_few(
            kernel.structure, one, np.array([1e-3]), free=("launch_s", "token_s"), start=kernel.values,
            sigma=0.3, donor=kernel,
        )  # fmt: skip


def test_an_unfinished_run_with_failures_says_so(tmp_path, short_document):
    body = {
        **short_document, "complete": False,
        "points": [p for p in short_document["points"] if p["stage"] == "prefill"], "ceilings": [],
        "failures": [{"stage": "grid", "key": "k", "message": "out of memory"}],
    }  # fmt: skip
    path = tmp_path / "m.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    profile, _ = calibrate([str(path)])
    notes = " | ".join(profile.notes)
    assert "did not run to its end" in notes
    assert "1 points could not be measured, the first is k: out of memory" in notes
    assert "hold-out was not measured" in notes
    assert "gemm bfloat16" in notes
    with pytest.raises(UsageError, match="by itself"):
        calibrate([str(path), str(path)])


def test_the_command_shows_what_was_measured_in_80_columns(own_profile, capsys):
    assert run(["calibrate", "show", str(own_profile)]) == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    assert "Registered hold-out: 40 points" in words
    assert "read 3." in words
    assert max(map(len, text.splitlines())) <= 80
    assert run(["calibrate", "show", str(own_profile), "--format", "json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["measured"]["held_out"]["tested"] == 40


@pytest.fixture
def script(monkeypatch):
    """Stands for the kernels' script: records how it was called, writes a file, ends with a code."""
    import importlib.util
    import subprocess

    calls = []

    def arrange(code, content=None):
        def fake(command, *, env, stdout, check):
            calls.append((command, env["CUDA_VISIBLE_DEVICES"]))
            if content is not None:
                Path(command[command.index("-o") + 1]).write_text(content, encoding="utf-8")
            return subprocess.CompletedProcess(command, code)

        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: name in ("torch", "triton") or found(name)
        )
        monkeypatch.setattr(subprocess, "run", fake)
        return calls

    return arrange


def test_measuring_runs_the_script_keeps_its_file_and_fits(
    tmp_path, short_document, script, capsys, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    points = [p for p in short_document["points"] if p["stage"] == "prefill"]
    calls = script(0, json.dumps({**short_document, "points": points, "ceilings": []}))
    out = tmp_path / "mine.json"
    assert run(["calibrate", "--gpu", "1", "-o", str(out)]) == 0
    (command, visible) = calls[0]
    assert command[1:] == ["-m", "kvplan.kernels.benchmark", "-o", str(tmp_path / "mine.measurements.json")]
    assert visible == "5"
    assert (tmp_path / "mine.measurements.json").is_file()
    assert read_profile(out).provenance.inputs[0]["path"].endswith("mine.measurements.json")
    capsys.readouterr()


@pytest.mark.parametrize(
    ("code", "content", "expected", "message"),
    [
        (4, None, 4, "cannot be measured"),
        (-11, None, 1, "exit code -11"),
        (1, None, 1, "exit code 1"),
        (1, "{}", 1, "not kernel measurements"),
    ],
)
def test_a_script_that_fails_is_not_a_profile(tmp_path, script, capsys, code, content, expected, message):
    script(code, content)
    assert run(["calibrate", "--gpu", "0", "-o", str(tmp_path / "p.json")]) == expected
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


def test_a_device_that_cuda_does_not_show_is_refused(tmp_path, script, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    calls = script(0)
    assert run(["calibrate", "--gpu", "1", "-o", str(tmp_path / "p.json")]) == 4
    assert "no CUDA device 1" in capsys.readouterr().err
    assert calls == []
