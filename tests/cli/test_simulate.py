"""``kvplan simulate``: files it writes, exit codes, errors; no traceback ever."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

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


def test_a_clock_that_knows_no_model_imports_none(tmp_path: Path) -> None:
    """Start-up is a third of a short run: models, sizes, the datasheet and YAML are for who names them."""
    options = ["--blocks", "2000", "--latency", "linear", "--set", "workload.requests=3", "--quiet"]
    constants = ["latency.a=5.0e-3", "latency.b=2.0e-5", "latency.c=1.0e-8"]
    sets = [word for constant in constants for word in ("--set", constant)]
    argv = [
        "simulate",
        "--synthesize",
        "fixed",
        "--rate",
        "20",
        *options,
        *sets,
        "-o",
        str(tmp_path / "r.json"),
    ]
    needless = ("kvplan.specs.schema", "kvplan.sizing.attention", "kvplan.latency.work", "numpy", "yaml")
    code = (
        "import sys, contextlib, io\n"
        "from kvplan.cli.app import run\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    assert run({argv!r}) == 0\n"
        f"print([name for name in {needless!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


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


def test_serving_none_of_the_requests_exits_with_3(
    scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    assert run(["simulate", scenario, "--blocks", "2", "-o", str(out)]) == 3
    said = capsys.readouterr()
    assert "error: none of the 120 requests can be served" in said.err
    assert "serves none of the 120 requests" in said.out
    result = json.loads(out.read_text())
    assert result["complete"] is True
    assert result["totals"]["rejected"] == 120


def test_an_engine_that_would_not_start_exits_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    big = ["simulate", "-q", "--model", "llama-3.1-70b", "--gpu", "h100-sxm", "--tp", "2", "-n", "20"]
    big += ["--synthesize", "chat"]
    assert run(big) == 3
    said = capsys.readouterr()
    assert "would not start as configured" in said.out
    hint = next(line for line in said.err.splitlines() if "hint:" in line)
    length = hint.split("engine.max_model_len=")[1].split(",")[0]
    assert run([*big, "--set", f"engine.max_model_len={length}"]) == 0


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
        ([], 2, ["nothing says what to simulate", "--synthesize chat"]),
        (["--model", "llama-3.1-8b"], 2, ["command line  workload", "missing", "--trace FILE, or --synthesize"]),
        (["--synthesize", "chat"], 2, ["cache.blocks"]),
        (["{scenario}", "--synthesize", "chat", "--trace", "x.jsonl"], 2, ["--trace and --synthesize"]),
        (["{scenario}", "--set", "workload.trace=x.jsonl"], 1, ["'trace' and 'synthesize' exclude each other"]),
        (["{scenario}", "--tp", "0"], 2, ["--tp  parallel.tp", "greater than or equal to 1"]),
        (["{scenario}", "-n", "0"], 2, ["--limit  workload.requests"]),
        (["{scenario}", "--set", "engine=3"], 2, ["--set  engine", "expected a mapping of fields"]),
        (["{scenario}", "--set", "seed=" + "9" * 5000], 2, ["digits"]),
        (["{scenario}", "--set", "seed=" + "[" * 50000], 2, ["nested"]),
        (["{scenario}", "--model", "lama-3.1-8b"], 2, ["unknown model", "did you mean", "llama-3.1-8b"]),
        (["{scenario}", "--model", "llama-3.1-8b", "--gpu", "h100sxm5x"], 2, ["unknown gpu", "h100-sxm"]),
        (["{scenario}", "--synthesize", "chatt"], 2, ["chat"]),
        (["{scenario}", "--latency", "roofine"], 1, ["needs 'model'"]),
        (["{scenario}", "--set", "latency.model=magic"], 1, ["needs 'model'"]),
        (["{scenario}", "--set", "engine.policy=lifo"], 2, ["--set  engine.policy"]),
        (["{scenario}", "--set", "cache.blocks=1"], 2, ["--set  cache.blocks"]),
        (["{scenario}", "--set", "engine.kind=tgi"], 2, ["--set  engine.kind", "vllm or sglang"]),
        (["{scenario}", "--trace", "/nonexistent/trace.jsonl"], 1, ["/nonexistent/trace.jsonl"]),
        (["/nonexistent/scenario.yaml"], 1, ["/nonexistent/scenario.yaml"]),
        (["llama-3-8b"], 2, ["is a model", "--model llama-3-8b"]),
        (["{scenario}", "--requests", "rows.xml"], 2, ["rows.xml", ".jsonl"]),
        (["{scenario}", "--set", "seed=1:30"], 2, ["base 60", "decimal"]),
        (["{scenario}", "--set", "engine={{kind: sglang, page_size: -3}}"], 2, ["--set  engine.page_size\n"]),
        (["{scenario}", "--model", "x" * 9000], 2, ["unknown model", "(9,002 characters)"]),
        (["{scenario}", "--trace", "x" * 9000], 1, ["too long", "(9,000 characters)"]),
        (["{scenario}", "--engine", "turbo"], 2, ["--engine  engine.kind", "vllm or sglang"]),
        (["{scenario}", "--utilization", "1.8"], 2, ["--utilization  engine.gpu_memory_utilization"]),
        (["{scenario}", "--set", "engine.name=x"], 2, ["unknown field; known are kind, version"]),
        (["{scenario}", "--set", "foo.bar=3"], 2, ["--set  foo", "unknown field"]),
        (["{scenario}", "--set", 'workload.trace="a\\0b"'], 2, ["NUL character"]),
        (["{scenario}", "--set", "latency={{model: linear, a: 1.0e+300, b: 0, c: 0}}"], 1, ["between 0 and 1e+06 s"]),
        (["{scenario}", "--set", "rate=3"], 2, ["--set  rate", "did you mean workload.rate?"]),
        (["{scenario}", "--set", "engine.tp=2"], 2, ["--set  engine.tp", "known are kind", "mean parallel.tp"]),
        (["--model", "whisper-tiny", "--gpu", "h100", "--synthesize", "chat"], 2, ["an encoder's tokens"]),
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


LONG = SCENARIO.replace("requests: 120", "requests: 200000")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_files(tmp_path: Path, number: signal.Signals) -> None:
    scenario = tmp_path / "long.yaml"
    scenario.write_text(LONG)
    out, rows, log = (tmp_path / name for name in ("r.json", "rows.jsonl", "log.txt"))
    run_of_it = subprocess.Popen(
        [sys.executable, "-m", "kvplan", "simulate", str(scenario), "-o", str(out), "--requests", str(rows),
         "--decisions", str(log)],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell that runs the tests in the background has interrupts ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (rows.exists() and rows.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        run_of_it.send_signal(number)
        printed, err = run_of_it.communicate(timeout=60)
    finally:
        run_of_it.kill()
    assert run_of_it.returncode == 130, err
    assert "stopped early" in printed
    assert f"wrote {out} (incomplete)" in err
    assert f"in {out}, marked incomplete" in err
    result = json.loads(out.read_text())
    assert result["complete"] is False
    written = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(written) == result["totals"]["finished"] == result["latency"]["e2e_s"]["count"]
    # A signal may come between writing a step's line and counting the step.
    assert len(log.read_text().splitlines()) - result["totals"]["steps"] in (0, 1)


RECORDING = {
    "Replica.deliver", "Recorder.finished", "Recorder.settle", "RowWriter._write_json",
    "Held.__enter__", "Held.__exit__",
}  # fmt: skip


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Whoever starts the tests in the background of a shell has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_signal_waits_for_the_record_it_came_in(tmp_path: Path, replicas: int) -> None:
    """At every place of the code that counts and writes a row, the file and the totals agree."""
    scenario = tmp_path / "s.yaml"
    scenario.write_text(SCENARIO.replace("chat, requests: 120", "fixed, requests: 6"))
    out, rows = tmp_path / "r.json", tmp_path / "rows.jsonl"
    seen = places = 0

    def tracer(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal seen
        if frame.f_code.co_qualname not in RECORDING:
            return None
        if event == "line":
            seen += 1
            if seen == places:
                signal.raise_signal(signal.SIGINT)
        return tracer

    asked = ["simulate", str(scenario), "-o", str(out), "--requests", str(rows)]
    asked += ["--set", f"parallel.replicas={replicas}", "--quiet"]
    for places in (*range(100, 130), 10_000_000):
        seen = 0
        sys.settrace(tracer)
        try:
            code = run(asked)
        finally:
            sys.settrace(None)
        totals = json.loads(out.read_text())["totals"]
        assert code == (0 if places > 1000 else 130)
        assert len(rows.read_text().splitlines()) == totals["finished"]
        assert totals["finished"] + totals["unfinished"] + totals["rejected"] == totals["requests"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is always full")
def test_a_full_disk_keeps_the_result(
    scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    assert run(["simulate", scenario, "-o", str(out), "--decisions", "/dev/full"]) == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert "where: /dev/full" in err
    result = json.loads(out.read_text())
    assert result["complete"] is False
    assert any("No space left" in warning for warning in result["warnings"])


def test_a_trace_that_breaks_off_keeps_the_result(
    scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(MOONCAKE % (i * 10, i + 2) for i in range(40_000))
    trace, out, rows = tmp_path / "cut.jsonl.gz", tmp_path / "r.json", tmp_path / "rows.jsonl"
    trace.write_bytes(gzip.compress(lines.encode())[:-2000])
    asked = ["simulate", scenario, "--trace", str(trace), "-o", str(out), "--requests", str(rows)]
    assert run(asked) == 1
    assert f"{trace}" in capsys.readouterr().err
    result = json.loads(out.read_text())
    assert result["complete"] is False
    assert result["totals"]["finished"] == len(rows.read_text().splitlines()) > 0


def test_standard_output_holds_one_thing(
    scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", scenario, "-o", "-"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["complete"]
    assert "Latency" in said.err
    assert run(["simulate", scenario, "-o", "-", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"]
    assert run(["simulate", scenario, "--requests", "-"]) == 0
    said = capsys.readouterr()
    assert all(json.loads(line)["id"] for line in said.out.splitlines())
    assert "Latency" in said.err
    assert run(["simulate", scenario, "--html", "-"]) == 0
    assert capsys.readouterr().out.lower().startswith("<!doctype html>")
    for more in (["--requests", "-"], ["--format", "csv"]):
        assert run(["simulate", scenario, "-o", "-", *more]) == 2
        assert capsys.readouterr().out == ""


def test_outputs_are_checked_before_the_run(
    scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(MOONCAKE % (i * 10, i + 2) for i in range(5)))
    before = trace.read_text()
    for option in ("-o", "--requests", "--decisions"):
        assert run(["simulate", scenario, "--trace", str(trace), option, str(trace)]) == 2
        assert "would overwrite the trace" in capsys.readouterr().err
    assert run(["simulate", scenario, "-o", scenario]) == 2
    assert run(["simulate", scenario, "-o", str(tmp_path / "absent" / "r.json")]) == 1
    assert "no directory" in capsys.readouterr().err
    assert trace.read_text() == before
    assert Path(scenario).read_text() == SCENARIO


def test_print_scenario_as_json(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", scenario, "--print-scenario", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["cache"]["blocks"] == 2000
    assert run(["simulate", scenario, "--print-scenario", "--format", "csv"]) == 2


def test_the_number_of_requests_follows_the_workload_of_the_file(
    scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvplan", "simulate", "-", "-n", "7", "--format", "json"],
        input=SCENARIO, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)["totals"]["requests"] == 7, done.stderr


def test_flags_mean_the_same_on_both_engines(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "llama-3.1-8b", "--gpu", "h100-sxm", "--synthesize", "chat", "--ctx", "16k",
             "--utilization", "0.8", "--max-num-seqs", "32", "--max-num-batched-tokens", "2048",
             "--block-size", "32", "--kv-dtype", "fp8", "--print-scenario", "--format", "json"]  # fmt: skip
    assert run(["simulate", *flags]) == 0
    vllm = json.loads(capsys.readouterr().out)
    assert run(["simulate", *flags, "--engine", "sglang"]) == 0
    sglang = json.loads(capsys.readouterr().out)
    assert run(["simulate", *flags, "--set", "engine.kind=sglang"]) == 0
    assert json.loads(capsys.readouterr().out) == sglang
    shared = {"model", "gpu", "workload", "seed"}
    assert {k: vllm[k] for k in shared} == {k: sglang[k] for k in shared}
    ours, theirs = vllm["engine"] | {"block": vllm["cache"]["block_size"]}, sglang["engine"]
    names = {
        "max_model_len": "context_length", "gpu_memory_utilization": "mem_fraction_static",
        "max_num_seqs": "max_running_requests", "max_num_batched_tokens": "chunked_prefill_size",
        "block": "page_size",
    }  # fmt: skip
    assert [ours[name] for name in names] == [theirs[name] for name in names.values()] == [
        16_384, 0.8, 32, 2048, 32,
    ]  # fmt: skip
    assert vllm["cache"]["dtype"] == sglang["cache"]["dtype"] == "fp8"


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("parallel: {tp: 100000000000}", "parallel.tp"),
        ("parallel: {pp: 100000000000}", "parallel.pp"),
        ("workload: {synthesize: chat, requests: 100000000000, rate: 3}", "workload.requests"),
        ("workload: {synthesize: chat, requests: 10, rate: 1.0e+11}", "workload.rate"),
        ("workload: {trace: t.csv, block_size: 100000000000}", "workload.block_size"),
        ("workload: {trace: t.csv, time_scale: 1.0e-11}", "workload.time_scale"),
        ("workload: {trace: t.csv, format: mooncak}", "workload.format"),
    ],
)
def test_limits_are_told_with_the_line_of_the_file(capsys, tmp_path, part: str, field: str):
    scenario = tmp_path / "s.yaml"
    rest = "" if part.startswith("workload") else "workload: {synthesize: chat, requests: 3}\n"
    scenario.write_text(f"model: llama-3.1-8b\ngpu: h100-sxm\n{part}\n{rest}")
    assert run(["simulate", str(scenario)]) == 1
    error = capsys.readouterr().err
    assert f"s.yaml:3  {field}" in error
    assert run(["simulate", "--model", "llama-3.1-8b", "--gpu", "h100-sxm", "--tp", "100000000000"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["simulate", "--model", "llama-3.1-8b"], "'gpu' is missing: say which (kvplan gpus list)"),
        (["simulate", "--gpu", "h100-sxm"], "'model' is missing: say which (kvplan models list)"),
        (["simulate"], "'model' and 'gpu' are missing"),
        (["fit", "llama-3.1-8b"], "say for example --gpu h100-sxm"),
    ],
)
def test_what_is_missing_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, *([] if words[0] == "fit" else ["--synthesize", "chat"])]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.csv.gz"])
def test_a_trace_in_place_of_a_scenario_is_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x1f\x8b\x08" if name.endswith(".gz") else b'{"a": 1}\n{"a": 2}\n')
    assert run(["simulate", str(path)]) == 1
    assert f"give it with --trace {path}" in capsys.readouterr().err


def test_what_the_engine_refuses_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Drafts above a hybrid model's pools on prefill and decode servers are refused by the engine itself."""
    files = {name: tmp_path / name for name in ("r.json", "rows.csv", "log.txt")}
    code = run(
        ["simulate", "--model", "qwen3-next-80b-a3b", "--gpu", "h100-sxm", "--tp", "4", "--engine", "sglang",
         "--synthesize", "chat", "--limit", "20", "--rate", "2", "--set", "disaggregation={}",
         "--set", "speculative={method: mtp, tokens: 3, acceptance: 0.7}", "-o", str(files["r.json"]),
         "--requests", str(files["rows.csv"]), "--decisions", str(files["log.txt"])]
    )  # fmt: skip
    err = capsys.readouterr().err
    assert code == 2
    assert "where: speculative" in err
    assert "wrote" not in err
    assert not any(path.exists() for path in files.values())
