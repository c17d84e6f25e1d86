"""Jobs that crash, hang or lose the device cost their own result and nobody else's; a measuring process is
replaced."""

from __future__ import annotations

import os
import sys
import time

import pytest

from kvplan.kernels.bench import watch
from kvplan.kernels.bench.crew import LOST, Crew


def work(job: str) -> dict[str, object]:
    """What a check may do to its process."""
    if job == "crash":
        os._exit(7)
    if job == "hang":
        time.sleep(60)
    return {"key": job, "process": os.getpid(), LOST: job == "lose"}


def failed(job: str, reason: str) -> dict[str, object]:
    return {"key": job, "reason": reason}


def test_every_job_has_a_row_whatever_the_others_do():
    jobs = ["a", "crash", "lose", "b", "hang", "c", "d"]
    rows = {row["key"]: row for row in Crew(2, work, failed, patience_s=2.0).run(jobs)}
    assert set(rows) == set(jobs)
    assert "exit code 7" in rows["crash"]["reason"]
    assert "no result within 2 s" in rows["hang"]["reason"]
    assert all("process" in rows[name] and LOST not in rows[name] for name in ("a", "b", "c", "d", "lose"))


def test_a_process_without_a_device_gets_no_further_job():
    rows = list(Crew(1, work, failed, patience_s=30.0).run(["a", "lose", "b"]))
    assert rows[0]["process"] == rows[1]["process"] != rows[2]["process"]


def test_nothing_is_begun_when_it_is_late():
    assert list(Crew(2, work, failed, patience_s=30.0).run(["a", "b"], late=lambda: True)) == []


CHILD = """
import os, pathlib, sys, time
output, marker = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + ".now")
calls = len(output.read_text().split()) if output.exists() else 0
output.write_text(" ".join(["x"] * (calls + 1)))
what = sys.argv[2].split(",")[calls]
if what == "continues":
    assert "--continue" in sys.argv
    assert marker.read_text() == "point"
    what = "0"
if what in ("crash", "hang"):
    marker.write_text("point")
if what == "crash":
    os.kill(os.getpid(), 9)
if what == "hang":
    time.sleep(60)
sys.exit(int(what))
"""


@pytest.mark.parametrize(
    ("story", "code", "calls"),
    [
        ("0", 0, 1),
        ("1", 1, 1),
        ("4", 4, 1),
        ("crash,continues", 0, 2),
        ("hang,continues", 0, 2),
        ("75,1", 1, 2),
        (",".join(["75"] * watch.MOST_REPLACED), 1, watch.MOST_REPLACED),
    ],
)
def test_a_process_that_dies_hangs_or_lost_the_device_is_replaced(
    tmp_path, story: str, code: int, calls: int
):
    script, output = tmp_path / "child.py", tmp_path / "m.json"
    script.write_text(CHILD)
    assert (
        watch.watch([sys.executable, str(script), str(output), story], output, 60.0, patience_s=2.0) == code
    )
    assert len(output.read_text().split()) == calls


def test_what_hangs_past_the_end_is_ended(tmp_path, monkeypatch):
    script, output = tmp_path / "child.py", tmp_path / "m.json"
    script.write_text(CHILD)
    monkeypatch.setattr(watch, "GRACE_S", 0.5)
    began = time.monotonic()
    assert watch.watch([sys.executable, str(script), str(output), "hang"], output, 1.0) == 1
    assert time.monotonic() - began < 20
