"""Prefill and decode servers of SGLang on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvplan.cli.app import run

CLOCK = "latency={model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8}"
FLAGS = [
    "simulate", "--engine", "sglang", "--synthesize", "chat", "--limit", "60", "--rate", "20", "--set", CLOCK,
    "--set", "engine.max_total_tokens=60000", "--set", "engine.context_length=16384",
    "--set", "disaggregation.bytes_per_token=131072",
]  # fmt: skip


def test_a_run_says_what_disaggregation_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert run([*FLAGS, "--html", str(page)]) == 0
    told = capsys.readouterr().out
    for line in ("TTFT reserve mean", "TTFT first decode mean", "Moved bytes", "Decode steps"):
        assert line in told, line
    assert "reserve" in page.read_text(encoding="utf-8")


def test_decisions_name_pool_and_instance(tmp_path: Path) -> None:
    log = tmp_path / "decisions.txt"
    assert run([*FLAGS, "--set", "disaggregation.decode.instances=2", "--decisions", str(log)]) == 0
    names = {line.split("\t")[0] for line in log.read_text(encoding="utf-8").splitlines() if "\t" in line}
    assert names == {"P0", "D0", "D1"}


def test_more_decode_servers_do_no_worse(capsys: pytest.CaptureFixture[str]) -> None:
    means = []
    for count in (1, 4):
        assert run([*FLAGS, "--set", f"disaggregation.decode.instances={count}", "--format", "json"]) == 0
        means.append(json.loads(capsys.readouterr().out)["latency"]["tpot_s"]["mean"])
    assert means[1] < means[0]


@pytest.mark.parametrize(
    ("assignment", "where"),
    [
        ("disaggregation.streaming=layerwise", "disaggregation.streaming"),
        ("disaggregation.decode.max_num_seqs=4", "disaggregation.decode.max_num_seqs"),
        ("disaggregation.decode.extra_slots=-1", "disaggregation.decode.extra_slots"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], assignment: str, where: str) -> None:
    assert run([*FLAGS, "--set", assignment]) == 2
    assert where in capsys.readouterr().err
