"""``kvplan plan``: what it prints and writes, exit codes, what it chooses from."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kvplan.cli.app import run
from kvplan.reporting.loading import load_report
from kvplan.reporting.schema.plan import Plan

BASE = [
    "plan", "--model", "llama-3.1-8b", "--synthesize", "fixed", "--rate", "150", "-n", "400", "--longest", "400",
    "--set", "workload.prompt_tokens=200", "--set", "workload.output_tokens=20", "--set", "slo.ttft_p99_s=0.5",
    "-j", "1",
]  # fmt: skip
TWO = [*BASE, "--gpu", "h100-sxm,l40s", "--tp", "1,2", "--most-gpus", "8"]
PRICES = ["--price", "h100-sxm=2.5,l40s=0.9"]


def test_the_answer_comes_first_and_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TWO, *PRICES]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("llama-3.1-8b meets every objective on ")
    assert " USD an hour." in " ".join(lines[:2])
    for word in (
        "Replicas",
        "GPUs",
        "USD/h",
        "USD/M out",
        "TTFT p99",
        "TPOT p99",
        "vllm serve",
        "kvplan simulate",
    ):
        assert word in printed.out
    assert sum(line.strip().startswith(("1 ", "2 ", "3 ", "4 ")) for line in lines) == 4
    assert printed.err == ""


def test_same_inputs_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TWO, *PRICES]) == 0
    first = capsys.readouterr().out
    assert run([*TWO, *PRICES]) == 0
    assert capsys.readouterr().out == first


def test_without_prices_different_gpus_are_counted_alike_and_it_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(TWO) == 0
    printed = capsys.readouterr().out
    assert "USD" not in printed
    assert "no prices were given" in printed
    assert "The fewest GPUs of 4 candidates" in printed


def test_the_last_command_runs_and_has_the_figures_of_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, result = tmp_path / "plan.json", tmp_path / "result.json"
    assert run([*TWO, *PRICES, "-o", str(saved), "--format", "md"]) == 0
    line = next(t for t in capsys.readouterr().out.splitlines() if t.startswith("kvplan simulate"))
    import shlex

    words = shlex.split(line)[1:]
    words[words.index("--html") : words.index("--html") + 2] = ["-o", str(result), "--quiet"]
    assert run(words) == 0
    plan, found = load_report(saved), json.loads(result.read_text())
    assert isinstance(plan, Plan)
    assert plan.answer is not None
    assert plan.answer.figures is not None
    assert found["latency"]["ttft_s"]["p99"] == plan.answer.figures.ttft_p99_s
    assert found["cost"]["per_hour"] == plan.answer.figures.cost_per_hour
    assert found["cost"]["gpus"] == plan.answer.gpus


def test_every_format_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, page = tmp_path / "plan.json", tmp_path / "plan.html"
    assert run([*TWO, *PRICES, "-o", str(saved), "--html", str(page), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    document = json.loads(saved.read_text())
    assert [row["best"] for row in rows].count("true") == 1
    best = rows[document["best"] - 1]
    assert (best["best"], best["status"]) == ("true", "meets")
    assert best["gpus"] == str(document["candidates"][document["best"] - 1]["gpus"])
    text = page.read_text()
    assert "deployment plan" in text
    assert "kvplan.plan/1" in text
    assert run(["report", str(saved), "--format", "table"]) == 0
    table = capsys.readouterr().out
    assert run([*TWO, *PRICES]) == 0
    assert capsys.readouterr().out == table
    for form in ("md", "csv", "json", "html"):
        assert run(["report", str(saved), "--format", form, "-o", "-"]) == 0
        assert capsys.readouterr().out


def test_nothing_meets_is_exit_3_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run([*BASE, "--gpu", "l40s", "--tp", "1", "--most-gpus", "2", "--set", "slo.tpot_p99_s=0.001"]) == 3
    )
    printed = capsys.readouterr()
    assert "none of 1 candidate" in printed.out
    assert "TPOT p99" in printed.out
    assert "--most-gpus" in printed.err


def test_requests_that_are_too_long_want_a_longer_context_and_not_more_gpus(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([*BASE, "--gpu", "l40s", "--tp", "1", "--ctx", "100"]) == 3
    printed = capsys.readouterr()
    assert "misses with any number of replicas" in printed.out
    assert "> 64" not in printed.out
    assert "--ctx" in printed.err


def test_what_does_not_fit_is_a_row_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*BASE, "--gpu", "l4,h100-sxm", "--tp", "1", "--most-gpus", "8"]
    arguments[arguments.index("llama-3.1-8b")] = "qwen2.5-32b"
    assert run([*arguments, "--dtype", "fp8", "--weights-dtype", "fp8"]) == 0
    printed = capsys.readouterr().out
    assert "1: qwen2.5-32b does not fit on 1 x l4:" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([*BASE], "which GPUs to choose from"),
        ([*BASE, "--gpu", "h100-sxm", "--tp", "1", "--vary", "gpu=l40s"], "--gpu and --vary gpu set the"),
        (
            [*BASE, "--gpu", "h100-sxm", "--tp", "1", "--vary", "parallel.tp=2"],
            "--tp and --vary parallel.tp set",
        ),
        ([*BASE, "--gpu", "h100-sxm", "--set", "gpu=l40s"], "--gpu and --set gpu set the same field"),
        (
            [*BASE, "--gpu", "h100-sxm", "--tp", "1", "--set", "parallel.tp=2"],
            "--tp and --set parallel.tp set",
        ),
        (
            [*BASE, "--gpu", "h100-sxm", "--tp", "1", "--set", "parallel={tp: 2}"],
            "--tp and --set parallel set",
        ),
        ([*BASE, "--gpu", "h100-sxm", "--set", "parallel.replicas=2"], "seeks the number of replicas itself"),
        ([*BASE, "--gpu", "h100-sxm", "--set", "parallel={replicas: 2}"], "the number of replicas itself"),
        ([*BASE, "--gpu", "h100-sxm,", "--tp", "1"], "--gpu 'h100-sxm,' has an empty value"),
        ([*BASE, "--gpu", "h100-sxm", "--tp", "1,,2"], "--tp '1,,2' has an empty value"),
        ([*BASE, "--gpu", "h100-sxm,h100", "--tp", "1"], "are the same GPU"),
        ([*BASE, "--gpu", "h100-sxm", "--tp", "1", "--vary", "workload.rate=1,2"], "the same workload"),
        ([*BASE, "--gpu", "h100-sxm", "--price", "cheap"], "no price"),
        ([*BASE, "--gpu", "h100-sxm,l40s", "--tp", "1", "--price", "h100-sxm=1,l40=1"], "no price of l40s"),
        ([*BASE, "--gpu", "h100-sxm", "--tp", "1,1"], "twice"),
        (["plan", "--model", "llama-3.1-8b", "--gpu", "h100-sxm", "--synthesize", "chat"], "good enough"),
    ],
)
def test_what_cannot_be_planned(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert reason in printed.err
    assert not printed.out


def test_a_scenario_file_may_say_the_gpu_and_keeps_its_tensor_parallelism(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(
        "model: llama-3.1-8b\ngpu: h100-sxm\nparallel: {tp: 2, replicas: 7}\n"
        "workload: {synthesize: fixed, rate: 100, requests: 300, prompt_tokens: 200, output_tokens: 20}\n"
        "slo: {ttft_p99_s: 0.5}\n"
    )
    assert run(["plan", str(path), "-j", "1", "--longest", "300", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["values"] for item in document["candidates"]] == [{"gpu": "h100-sxm"}]
    assert document["candidates"][0]["pools"][0]["gpus"] == 2
    assert document["candidates"][0]["sizes"] == [1]


def test_sizes_of_a_scenario_file_are_not_used_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replicas of the one kind of candidate would be an error beside the pools of the other."""
    path = tmp_path / "scenario.yaml"
    path.write_text(
        "model: llama-3.1-8b\ngpu: h100-sxm\nparallel: {tp: 1, replicas: 2}\n"
        "workload: {synthesize: fixed, rate: 10, requests: 100, prompt_tokens: 200, output_tokens: 20}\n"
        "slo: {ttft_p99_s: 5}\n"
    )
    both = ["--vary", "disaggregation=null,{link: ib-ndr}", "-j", "1", "--longest", "100"]
    assert run(["plan", str(path), *both, "--format", "json"]) == 0
    said = capsys.readouterr()
    assert [item["status"] for item in json.loads(said.out)["candidates"]] == ["meets", "meets"]
    assert "parallel.replicas of the scenario is not used: a plan seeks it" in said.err


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--set", "gpu=h100-sxm", "--set", "parallel.tp=2"], [{"gpu": "h100-sxm"}]),
        (["--set", "gpu=h100-sxm", "--set", "parallel={tp: 2}"], [{"gpu": "h100-sxm"}]),
        (["--vary", "gpu=h100-sxm", "--tp", "2"], [{"parallel.tp": 2, "gpu": "h100-sxm"}]),
        (["--gpu", "h100-sxm", "--vary", "parallel.tp=2"], [{"gpu": "h100-sxm", "parallel.tp": 2}]),
    ],
)
def test_gpus_may_be_chosen_in_every_way(
    arguments: list[str], found: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*BASE, *arguments, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["values"] for item in document["candidates"]] == found
    assert document["candidates"][0]["pools"][0]["gpus"] == 2


def test_what_fits_nowhere_is_not_asked_for_more_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*BASE, "--gpu", "l4,l40s", "--tp", "1,2"]
    arguments[arguments.index("llama-3.1-8b")] = "deepseek-v3"
    assert run(arguments) == 3
    printed = capsys.readouterr()
    assert printed.out.startswith("deepseek-v3 fits on none of 4 candidates (gpu and tp) up to 64 GPUs.")
    assert "--tp" in printed.err
    assert "--most-gpus" not in printed.err


def test_candidates_that_are_all_wrong_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*BASE, "--gpu", "h100-sxm", "--tp", "3,5"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("llama-3.1-8b: none of 2 candidates (gpu and tp) could be simulated.")
    assert "2 of 2 candidates failed" in printed.err


def test_costs_of_any_size_leave_room_for_what_they_are_of(capsys: pytest.CaptureFixture[str]) -> None:
    for price in ("1e9", "1e-9"):
        assert run([*BASE, "--gpu", "h100-sxm", "--tp", "1", "--price", price]) == 0
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= 80
        assert " h100-sxm " in printed.partition("Replicas")[2].partition("Start")[0]


def test_many_objectives_leave_room_for_what_they_are_of(capsys: pytest.CaptureFixture[str]) -> None:
    more = [f"slo.{name}_s=100" for name in ("ttft_p50", "tpot_p50", "tpot_p99", "e2e_p50", "e2e_p99")]
    asked = [word for text in more for word in ("--set", text)]
    assert run([*BASE, *asked, "--gpu", "h100-sxm", "--tp", "1", "--price", "2"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "h100-sxm" in printed.partition("Replicas")[2].partition("Start")[0]


def test_columns_move_closer_before_they_are_joined_or_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--set", "slo.tpot_p99_s=100", "--set", "slo.e2e_p99_s=100"]
    assert run([*BASE, *more, "--gpu", "h100-sxm", "--tp", "1", "--price", "2"]) == 0
    printed = capsys.readouterr().out
    head = next(line for line in printed.splitlines() if "Replicas" in line)
    assert re.split(" {2,}", head.strip()) == [
        "gpu", "tp", "Replicas", "GPUs", "USD/h", "USD/M out", "TTFT p99", "TPOT p99", "E2E p99",
    ]  # fmt: skip
    assert max(map(len, printed.splitlines())) <= 80
    assert "no room" not in printed


def test_choices_too_long_for_a_column_are_listed_above(capsys: pytest.CaptureFixture[str]) -> None:
    pools = "disaggregation=null,{link: ib-ndr, prefill: {router: round-robin}}"
    assert run([*BASE, "--gpu", "h100-sxm", "--tp", "1", "--price", "2", "--vary", pools]) == 0
    listed, _, table = capsys.readouterr().out.partition("Start")[0].partition("Replicas")
    assert "1: gpu=h100-sxm, parallel.tp=1, disaggregation=null\n" in listed
    assert (
        "2: gpu=h100-sxm, parallel.tp=1, disaggregation={link: ib-ndr, prefill: {router:\n  round" in listed
    )
    assert max(map(len, table.splitlines())) <= 80
    assert "ib-ndr" not in table


def test_a_stream_without_utf8_has_ascii_signs(tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    assert run([*BASE, "--gpu", "h100-sxm", "--tp", "1", "-o", str(saved), "--format", "csv"]) == 0
    words = [sys.executable, "-m", "kvplan", "report", str(saved), "--format", "table"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    printed = subprocess.run(words, capture_output=True, env=environment, check=True).stdout.decode("ascii")
    assert "\\u" not in printed
    assert "?" not in printed
    assert " by the clock's band)" in printed
