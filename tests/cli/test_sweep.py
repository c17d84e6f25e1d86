"""``kvplan sweep``: what it prints and writes, exit codes, interruption."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kvplan.cli.app import run

SCENARIO = """\
cache: {blocks: 2000}
engine: {max_model_len: 16k, max_num_batched_tokens: 2048}
latency: {model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8}
workload: {synthesize: chat, requests: 40, rate: 20}
"""
VARY = ["--vary", "cache.eviction=lru,lfu", "--vary", "cache.blocks=1100,2000"]


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    return str(path)


def test_one_row_a_point_within_80_columns(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", scenario, *VARY, "-j", "1"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert (
        sum(line.strip().startswith(("1 ", "2 ", "3 ", "4 ")) for line in lines) == 8
    )  # two tables of four rows
    for word in ("eviction", "blocks", "Hits", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "Preempted",
                 "Evicted", "Moved", "Peak KV"):  # fmt: skip
        assert word in printed.out
    assert printed.err == ""


def test_long_values_are_listed_above_the_tables(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    pinned = "{memory: 0.5, prefixes: [{tokens: 64, ttl: 60}, {tokens: 256, ttl: 30, min_uses: 3}]}"
    assert run(["sweep", scenario, "--vary", f"cache.pinned=null,{pinned}", "-j", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("The engine at 2 points: TTFT p99 from ")
    assert lines[2] == "1: cache.pinned=null"
    assert lines[3].startswith("2: cache.pinned={memory: 0.5, prefixes: [")
    assert max(map(len, lines)) <= 80
    assert sum(line.strip().startswith(("1 ", "2 ")) for line in lines) == 4


@pytest.mark.parametrize(
    "key", ["engine.max_num_batched_tokens=1024,2048", "engine.async_scheduling=true,false"]
)
def test_no_heading_is_folded_inside_a_word(
    key: str, scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = key.partition("=")[0].rpartition(".")[2]
    assert run(["sweep", scenario, "--vary", key, "--vary", "cache.blocks=1100,2000", "-j", "1"]) == 0
    printed = capsys.readouterr().out
    headings = [line for line in printed.splitlines() if line.startswith("Point ")]
    assert len(headings) == 2
    assert all(name in line for line in headings) or f"1: {key.partition(',')[0]}" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_a_wide_terminal_gets_one_table(
    scenario: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run(["sweep", scenario, *VARY, "-j", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 6


@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_stdout_is_the_same_every_time_and_for_any_number_of_jobs(
    scenario: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for jobs in ("1", "2"):
        assert run(["sweep", scenario, *VARY, "-f", form, "-j", jobs]) == 0
        said.append(capsys.readouterr().out)
    if form == "json":
        documents = [json.loads(text) for text in said]
        for document in documents:
            document["provenance"].pop("command")  # the test's own, but not for ever
        assert documents[0] == documents[1]
    else:
        assert said[0] == said[1]


def test_the_forms_say_the_same(scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep.json"
    assert run(["sweep", scenario, *VARY, "-j", "1", "-f", "csv", "-o", str(out)]) == 0
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    document = json.loads(out.read_text())
    assert document["schema"] == "kvplan.sweep/1"
    assert f"wrote {out}" in printed.err
    for row, point in zip(rows, document["points"], strict=True):
        assert row["cache.eviction"] == point["values"]["cache.eviction"]
        assert float(row["ttft_p99_s"]) == point["figures"]["ttft_p99_s"]
        assert row["slo_met"] == ""
    assert run(["sweep", scenario, *VARY, "-j", "1", "-f", "md"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("**The engine at 4 points: TTFT p99 from ")
    assert "\n\n| Point | eviction | blocks | Hits |" in text
    assert text.count("\n| ") == 6  # the head, the rule under it, and four points


def test_the_document_on_standard_output_is_the_answer(
    scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", scenario, *VARY, "-j", "1", "-o", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 4


def test_a_scenario_from_standard_input(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvplan", "sweep", "-", *VARY, "-f", "csv"],
        input=SCENARIO, text=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


def test_a_failed_point_is_printed_and_exits_with_1(
    scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", scenario, "--vary", "cache.eviction=lru,nope", "-j", "1"]) == 1
    printed = capsys.readouterr()
    assert "- point 2: failed, --vary cache.eviction" in " ".join(printed.out.split())
    assert "1 of 2 points failed" in printed.err


def test_the_same_reason_is_said_once(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        ["sweep", scenario, "--vary", "cache.eviction=nope,lru", "--vary", "seed=0,1,2", "-j", "1", "-n", "2"]
    )
    assert "- points 1 to 3: failed," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vary", "cache.blocks=1100,2000", "--set", "cache.blocks=1500"], "--vary cache.blocks and --set cache.blocks"),
        (["--vary", "cache.blocks=1100,2000", "--set", "cache={blocks: 9}"], "--vary cache.blocks and --set cache set"),
        (["--vary", "cache={blocks: 1100},{blocks: 9}", "--set", "cache.blocks=9"], "--vary cache and --set cache.blocks"),
        (["--vary", "workload.rate=1,2", "--rate", "3"], "--vary workload.rate and the option for workload.rate"),
    ],
)  # fmt: skip
def test_what_is_varied_is_not_set_besides(
    scenario: str, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(["sweep", scenario, *words, "-j", "1"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert "set the same field" in printed.err


def test_what_is_wrong_with_every_point_is_said_before_any_is_simulated(
    scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", scenario, "--vary", "cache.evicton=lru,lfu", "-j", "1"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "did you mean eviction?" in printed.err
    assert "--vary" in printed.err


def test_where_nothing_fits_the_answer_is_no(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "sweep",
        scenario,
        "--set",
        "cache.blocks=null",
        "--gpu",
        "l4",
        "--set",
        "latency={model: roofline}",
    ]
    assert run([*words, "--vary", "model=llama-3.1-70b,llama-3.1-405b", "-j", "1"]) == 3
    printed = capsys.readouterr()
    assert printed.out.count("does not fit") == 2
    assert "no point fits" in printed.err
    assert run([*words, "--vary", "model=llama-3.1-8b,llama-3.1-70b", "-j", "1", "-n", "5"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing is varied"),
        (["--vary", "cache.blocks"], "cannot read --vary"),
        (["--vary", "seed=1..2000:1"], "more than 1,000 values"),
        (["--vary", "seed=0,1", "--trace", "-"], "standard input or a pipe can be read once"),
        (["--vary", "seed=0,1", "-j", "0"], "--jobs"),
        (["--vary", "seed=0,1", "-o", "{scenario}"], "would overwrite the scenario"),
    ],
)
def test_usage(scenario: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", scenario, *(word.replace("{scenario}", scenario) for word in words)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("how", "jobs"), [(signal.SIGTERM, "1"), (signal.SIGINT, "2")])
def test_an_interrupted_sweep_keeps_what_is_done(tmp_path: Path, how: signal.Signals, jobs: str) -> None:
    """The first points take no time, the others minutes: the sweep is told to end in between."""
    scenario, out = tmp_path / "scenario.yaml", tmp_path / "sweep.json"
    scenario.write_text(SCENARIO)
    # Progress is shown on a terminal only; there it says when the first points are done.
    terminal, other_end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kvplan", "sweep", str(scenario), "-j", jobs, "-o", str(out),
         "--vary", "workload.requests=2,3,4000000,4000001,4000002"],
        stdout=subprocess.PIPE, stderr=other_end, text=True, start_new_session=True,
        # A shell that runs the tests in the background has it ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(other_end)
    try:
        shown = b""
        while b"2 of 5 simulations" not in shown:
            shown += os.read(terminal, 4096)
        time.sleep(0.5)
        if how is signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does
        else:
            process.send_signal(how)
        printed, _ = process.communicate(timeout=30)
        with suppress(OSError):  # nobody writes any more
            while more := os.read(terminal, 4096):
                shown += more
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        os.close(terminal)
    error = shown.decode()
    assert process.returncode == 130, error
    assert "Traceback" not in error
    document = json.loads(out.read_text())
    assert document["complete"] is False
    status = [row["status"] for row in document["points"]]
    assert status[0] == "done"
    assert status[2:] == ["not run"] * 3
    assert all((row["figures"] is not None) == (row["status"] == "done") for row in document["points"])
    assert "not run: the sweep was interrupted" in printed
    assert "(incomplete)" in error


def test_a_sweep_is_reported_as_a_result_is(
    scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "sweep.json", tmp_path / "sweep.html"
    words = ["sweep", scenario, "--vary", "cache.eviction=lru,lfu", "-j", "1"]
    assert run([*words, "-o", str(out), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    first = page.read_text()
    assert "<!doctype html>" in first
    page.unlink()
    assert run(["report", str(out)]) == 0
    assert page.read_text() == first
    assert run(["report", str(out), "--format", "table"]) == 0
    shown = capsys.readouterr()
    assert shown.out == printed
    assert run([*words, "--format", "csv"]) == 0
    table = capsys.readouterr().out
    assert run(["report", str(out), "--format", "csv"]) == 0
    assert capsys.readouterr().out == table
    assert run([*words, "--format", "md"]) == 0
    markdown = capsys.readouterr().out
    assert run(["report", str(out), "-o", str(tmp_path / "sweep.md")]) == 0
    assert (tmp_path / "sweep.md").read_text() == markdown
    assert run(["report", str(out), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert run([*words, "--html", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert run(["diff", str(out), str(out)]) == 1
    assert "kvplan report shows it" in capsys.readouterr().err


def test_sweep_takes_what_simulate_takes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "llama-3.1-8b", "--gpu", "h100-sxm", "--synthesize", "chat", "--limit", "40", "-q"]
    deployment = [
        "--engine",
        "sglang",
        "--tp",
        "2",
        "--ctx",
        "32k",
        "--kv-dtype",
        "fp8",
        "--utilization",
        "0.7",
    ]
    assert run(["simulate", *words, *deployment, "--rate", "8", "--format", "json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert run(["sweep", *words, *deployment, "--vary", "workload.rate=8,16", "--format", "json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert points[0]["figures"]["ttft_p99_s"] == alone["latency"]["ttft_s"]["p99"]


def test_requests_that_no_load_serves_are_what_to_look_at(
    scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are rejected as too long, however few come: looking lower does not help."""
    highest = ["sweep", scenario, "--set", "slo.ttft_p99_s=5", "--highest", "workload.rate=1..2", "-j", "1"]
    assert run([*highest, "--set", "engine.max_model_len=600"]) == 3
    told = capsys.readouterr().err
    assert "requests are rejected even there, and no lower load serves them" in " ".join(told.split())
    assert run([*highest, "--set", "slo.ttft_p99_s=0.0001"]) == 3
    assert "look lower" in capsys.readouterr().err
