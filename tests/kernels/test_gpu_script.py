"""The GPU script whole, as it is called on a GPU: watching, the crew, graph capture, events, resuming, exit codes.

The device is an invention (``fake_cuda/sitecustomize.py``): what it cannot show is a kernel's speed, and errors of
the real driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

FAKE, ROOT = Path(__file__).parent / "fake_cuda", Path(__file__).parents[2]
LATENT = "write/mla_write/mla_bf16/4/1/576/1/8/64/0/8/0/True/0"


def begin(output: Path, story: str = "") -> subprocess.Popen[str]:
    """The script in a process of its own, with what it says on one pipe."""
    # More time than a card is lent: a busy machine must not cost the stages at the end.
    command = [
        sys.executable, "-W", "ignore", "-m", "kvplan.kernels.benchmark", "-o", str(output), "--minutes", "30",
    ]  # fmt: skip
    environment = os.environ | {
        "FAKE_CUDA": "1", "FAKE_CUDA_STORY": story, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(FAKE), str(ROOT)]),
    }  # fmt: skip
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_the_script_measures_survives_and_goes_on(tmp_path):
    output = tmp_path / "m.json"
    # Ended by a time limit, say: rows since the last stage are saved too.
    first = begin(output)
    for line in first.stdout:
        if "machine:" in line:
            while not (tmp_path / "m.json.now").exists():
                time.sleep(0.01)
            first.send_signal(signal.SIGTERM)
            break
    rest = first.communicate(timeout=600)[0]
    assert first.returncode == 130, rest
    kept = json.loads(output.read_text())
    assert kept["complete"] is False
    assert {p["stage"] for p in kept["points"]} >= {"drift", "holdout", "grid"}
    assert not (tmp_path / "m.json.now").exists()
    assert all(row["ok"] for row in kept["correctness"])
    assert {"graph", "warm"} <= {row["kind"] for row in kept["correctness"]}

    # A check that is wrong, and a kernel that takes its process down.
    second = begin(output, "wrong,crash")
    said = second.communicate(timeout=600)[0]
    assert second.returncode == 1, said
    assert "measuring ended early (exit code -11); going on" in said
    body = json.loads(output.read_text())
    assert [row["key"] for row in body["correctness"] if not row["ok"]] == ["write/no-such-format"]
    assert [row["key"] for row in body["failures"]] == [LATENT]
    assert body["complete"] is True
    assert [p for p in body["points"] if p in kept["points"]] == kept["points"]
    assert {p["timed"] for p in body["peers"] if "median_s" in p} == {"graph"}

    # Called again: what failed is tried again, what was measured is not.
    third = begin(output)
    said = third.communicate(timeout=600)[0]
    assert third.returncode == 0, said
    last = json.loads(output.read_text())
    assert last["failures"] == []
    assert last["complete"] is True
    assert {p["key"] for p in last["points"]} - {p["key"] for p in body["points"]} == {LATENT}
    assert last["ceilings"] == body["ceilings"]
    assert not (tmp_path / "m.json.now").exists()
