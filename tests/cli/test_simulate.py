"""``kvplan simulate``: files it writes, exit codes, errors; no traceback ever."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvplan.cli.app import run

SCENARIO = """\
cache: {blocks: 2000}
engine: {max_model_len: 16k, max_num_batched_tokens: 2048}
latency: {model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8}
workload: {synthesize: chat, requests: 120, rate: 20}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    return str(path)


def test_everything_it_writes(scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = {name: str(tmp_path / name) for name in ("r.json", "rows.jsonl", "log.txt", "r.html")}
    code = run(["simulate", scenario, "-o", out["r.json"], "--requests", out["rows.jsonl"],
                "--decisions", out["log.txt"], "--html", out["r.html"]])  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "Latency" in printed.out
    assert all(len(line) <= 80 for line in printed.out.splitlines())
    result = json.loads(Path(out["r.json"]).read_text())
    rows = [json.loads(line) for line in Path(out["rows.jsonl"]).read_text().splitlines()]
    assert len(rows) == result["totals"]["finished"]
    assert list(rows[0]) == ["id", "arrival_s", "scheduled_s", "first_token_s", "finish_s", "prompt_tokens",
                             "output_tokens", "cached_tokens", "preemptions"]  # fmt: skip
    assert len(Path(out["log.txt"]).read_text().splitlines()) == result["totals"]["steps"]
    assert "<!doctype html>" in Path(out["r.html"]).read_text().lower()


def test_rows_as_csv_and_parquet(scenario: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    assert run(["simulate", scenario, "-q", "--requests", str(tmp_path / "rows.csv")]) == 0
    assert run(["simulate", scenario, "-q", "--requests", str(tmp_path / "rows.parquet")]) == 0
    with open(tmp_path / "rows.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    table = pd.read_parquet(tmp_path / "rows.parquet")
    assert [row["id"] for row in rows] == list(table["id"])
    assert [float(row["finish_s"]) for row in rows] == list(table["finish_s"])


@pytest.mark.parametrize("form", ["json", "csv", "md", "table"])
def test_stdout_is_the_same_every_time(scenario: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for _ in range(2):
        assert run(["simulate", scenario, "--format", form]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""


def test_a_missed_slo_exits_with_3(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", scenario, "--set", "slo.ttft_p99_s=0.000001"]) == 3
    assert "SLO missed: ttft_p99_s" in capsys.readouterr().err


def test_print_scenario_is_a_scenario(
    scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", scenario, "--limit", "7", "--print-scenario"]) == 0
    printed = capsys.readouterr().out
    assert "requests: 7" in printed
    again = tmp_path / "again.yaml"
    again.write_text(printed)
    assert run(["simulate", str(again), "--print-scenario"]) == 0
    assert capsys.readouterr().out == printed


MOONCAKE = '{"timestamp": %d, "input_length": 700, "output_length": 4, "hash_ids": [1, %d]}\n'


def test_a_trace_from_standard_input(scenario: str) -> None:
    lines = "".join(MOONCAKE % (i * 10, i + 2) for i in range(20))
    done = subprocess.run(
        [sys.executable, "-m", "kvplan", "simulate", scenario, "--trace", "-", "--format", "json"],
        input=lines, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["totals"]["finished"] == 20
    assert result["totals"]["hit_tokens"] == 19 * 512


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 1, ["workload"]),
        (["--synthesize", "chat"], 1, ["cache.blocks"]),
        (["{scenario}", "--model", "lama-3.1-8b"], 2, ["unknown model", "did you mean", "llama-3.1-8b"]),
        (["{scenario}", "--model", "llama-3.1-8b", "--gpu", "h100sxm5x"], 2, ["unknown gpu", "h100-sxm"]),
        (["{scenario}", "--synthesize", "chatt"], 2, ["chat"]),
        (["{scenario}", "--latency", "roofine"], 1, ["needs 'model'"]),
        (["{scenario}", "--set", "latency.model=magic"], 1, ["needs 'model'"]),
        (["{scenario}", "--set", "engine.policy=lifo"], 1, ["engine.policy"]),
        (["{scenario}", "--set", "cache.blocks=1"], 1, ["cache.blocks"]),
        (["{scenario}", "--set", "engine.kind=tgi"], 1, ["engine.kind"]),
        (["{scenario}", "--trace", "/nonexistent/trace.jsonl"], 1, ["/nonexistent/trace.jsonl"]),
        (["/nonexistent/scenario.yaml"], 1, ["/nonexistent/scenario.yaml"]),
        (["{scenario}", "--requests", "rows.xml"], 2, ["rows.xml", ".jsonl"]),
        (["{scenario}", "--engine", "turbo"], 2, ["unknown engine", "fast"]),
        (["{scenario}", "--nosuch"], 2, ["--nosuch"]),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_error(
    arguments: list[str], code: int, words: list[str], scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(scenario=scenario) for word in arguments]
    assert run(["simulate", *given]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err
    assert run(["simulate", *given, "--format", "json"]) == code
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["exit_code"] == code


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["empty"]),
        ("what,is,this\n1,2,3\n", ["broken.jsonl"]),
        ('{"timestamp": 0, "input_length": 10, "outp', ["broken.jsonl:1"]),
        ("\x00\x01\x02\x03", ["broken.jsonl"]),
    ],
)
def test_traces_that_cannot_be_read(
    content: str, words: list[str], scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(content)
    assert run(["simulate", scenario, "--trace", str(path), "--set", "workload.format=mooncake"]) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err


def test_a_half_written_last_line_is_counted_not_hidden(
    scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_text(MOONCAKE % (0, 2) + MOONCAKE % (10, 3) + '{"timestamp": 20, "input_le')
    assert run(["simulate", scenario, "--trace", str(path), "--format", "json"]) == 0
    trace = json.loads(capsys.readouterr().out)["trace"]
    assert trace["rows_read"] == 3
    assert trace["requests"] == 2
    assert sum(trace["dropped"].values()) == 1


def test_an_interrupt_keeps_what_is_done(scenario: str, tmp_path: Path) -> None:
    out = tmp_path / "partial.json"
    script = (
        "import sys, kvplan.engine.recorder as r\n"
        "from kvplan.cli.app import main\n"
        "seen = 0\n"
        "old = r.Recorder.finished\n"
        "def finished(self, row):\n"
        "    global seen\n"
        "    seen += 1\n"
        "    old(self, row)\n"
        "    if seen == 30:\n"
        "        raise KeyboardInterrupt\n"
        "r.Recorder.finished = finished\n"
        f"main(['simulate', {scenario!r}, '-o', {str(out)!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=60,
                          env=dict(os.environ))  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads(out.read_text())
    assert result["complete"] is False
    assert result["totals"]["finished"] == 30
