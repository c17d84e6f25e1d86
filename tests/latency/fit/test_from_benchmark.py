"""The GPU benchmark's own run, on a GPU whose times are known, through ``kvplan calibrate`` to a prediction."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: the benchmark cannot run")
pytest.importorskip("triton", reason="triton is not installed: the benchmark cannot run")

from kvplan.cli.app import run
from kvplan.kernels.bench import ceilings, correctness, peers, points, workload
from kvplan.kernels.bench import run as bench_run
from kvplan.kernels.bench.record import Record
from kvplan.kernels.bench.timer import summarise
from kvplan.latency.fit.profile_file import read_profile, restore_kernel

ENVIRONMENT = {
    "device": "NVIDIA H100 80GB HBM3", "kernels": "k", "torch": "2", "triton": "3", "dry_run": False,
    "multiprocessors": 132, "l2_bytes": 50 << 20,
}  # fmt: skip
FEW = {(1, 2048), (16, 2048), (4, 8192), (64, 8192)}


class Known:
    """A launch whose time is known."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class KnownTimer:
    """Reports what a launch says, with the scatter of a real clock."""

    def __init__(self) -> None:
        self.noise = np.random.default_rng(3)

    def time(self, calls):
        seconds = calls[0].seconds * np.exp(self.noise.normal(0.0, 0.01, 7))
        return summarise([float(x) for x in seconds], len(calls))


def seconds_of_ceiling(item: ceilings.Ceiling) -> float:
    fields = item.fields
    if "flops" in fields:
        weights = fields["features_in"] * fields["features_out"] * (2 if "bf16" in item.key else 1)
        return 4e-6 + max(fields["flops"] / 6e14, weights / 3e12)
    return 2e-6 + fields.get("bytes", 0) / (5e10 if item.key.startswith("host") else 3e12)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory, true_seconds):
    """The file that a whole run wrote, but for most of its grid."""
    grid = [
        p for p in points.grid()
        if p.format == "bf16" or ((p.hq, p.hkv) == (32, 8) and (p.batch, p.context) in FEW)
    ]  # fmt: skip
    # One dtype of products fits in half the time of two.
    machine = [c for c in ceilings.ceilings("cpu", tiny=False) if "fp8" not in c.key]
    for item in machine:
        item.calls = lambda item=item: [Known(seconds_of_ceiling(item))]

    def build(point, arena, l2_bytes, choice=None):
        fixed, body, splits = true_seconds(point)
        return workload.Work([Known(fixed + body)], {"splits": splits, "buffers": 1, "fused": splits > 1})

    def checks(work, device, late):
        return ({"key": correctness.key_of(job), "kind": job[0], "ok": True} for job in work)

    path = tmp_path_factory.mktemp("run") / "measurements.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "grid", lambda: iter(grid))
        patch.setattr(ceilings, "ceilings", lambda device, tiny: iter(machine))
        patch.setattr(ceilings, "timer_for", lambda item, timer: timer)
        patch.setattr(workload, "build", build)
        patch.setattr(correctness, "run", checks)
        patch.setattr(peers, "peers", lambda tiny: iter(()))
        work = bench_run.Run(Record.open(path, ENVIRONMENT), "cpu", KnownTimer(), 600.0, tiny=False)
        bench_run.perform(work)
        work.record.body["complete"] = work.complete
        work.record.save()
    return path


def test_the_run_holds_every_stage_and_is_complete(measured):
    body = json.loads(measured.read_text())
    assert body["complete"]
    assert body["failures"] == []
    stages = {p["stage"] for p in body["points"]}
    assert stages == {"grid", "holdout", "drift", "page", "window", "ragged", "staged", "formats", "mla",
                      "write", "prefill", "verify", "warm"}  # fmt: skip
    assert measured.stat().st_size < 16 << 20


def test_what_calibrate_fits_to_it_predicts_the_known_times(measured, tmp_path, true_seconds):
    assert run(["calibrate", "--from", str(measured), "-o", str(tmp_path / "p.json"), "--points", "60"]) == 0
    profile = read_profile(tmp_path / "p.json")
    assert profile.measured.complete
    assert profile.measured.held_out.tested == len(points.holdout())
    assert profile.measured.held_out.median <= 0.06
    (part,) = [
        p for p in profile.kernels if p.op == "generation_attention" and p.labels["kv_cache_dtype"] == "bf16"
    ]
    never = [
        points.Point("x", "decode", "bf16", 32, 8, 128, b, c) for b, c in ((3, 5000), (40, 3000), (90, 9000))
    ]
    names = ("batch", "ctx", "window", "q_heads", "kv_heads", "head_dim", "kv_element_bytes")
    table = np.array([(p.batch, p.context, 0, 32, 8, 128, 2.0) for p in never]).T
    guess = restore_kernel(part, "p").predict(dict(zip(names, table, strict=True)))
    truth = np.array([sum(true_seconds(p)[:2]) for p in never])
    assert np.abs(guess.seconds / truth - 1).max() <= 0.1
    (head,) = [p for p in profile.kernels if p.op == "gemm" and p.labels["gemm_dtype"] == "bfloat16"]
    shape = {"m": np.array([24.0]), "k": np.array([4096.0]), "n": np.array([128256.0])}
    truth = 4e-6 + 4096 * 128256 * 2 / 3e12
    assert restore_kernel(head, "p").predict(shape).seconds[0] == pytest.approx(truth, rel=0.1)
