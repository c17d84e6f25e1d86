"""``kvplan audit``: what it prints, how it exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kvplan.scenario.audit as audited
from kvplan.cli.app import run
from kvplan.cli.commands.audit import _around_difference
from kvplan.scenario.audit import Divergence

SCENARIO = """\
cache: {blocks: 400}
engine: {max_model_len: 6k, max_num_batched_tokens: 1024}
latency: {model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8}
workload: {synthesize: chat, requests: 40, rate: 20}
"""


@pytest.fixture
def result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    path = str(tmp_path / "r.json")
    assert run(["simulate", str(tmp_path / "scenario.yaml"), "-q", "-o", path]) == 0
    capsys.readouterr()
    return path


def test_an_equal_sample(result: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", result, "--sample", "15"]) == 0
    printed = capsys.readouterr()
    assert "equal: 15 requests" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_stdout_is_the_same_every_time(result: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for _ in range(2):
        assert run(["audit", result, "-n", "10", "--format", form]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""
    if form == "csv":
        assert said[0].splitlines()[1].startswith("fast engine equals the reference,true,")


def test_json(result: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", result, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "kvplan.audit/1"
    assert document["passed"] is True
    assert document["divergence"] is None
    assert document["requests"] == 40
    assert all(check["passed"] for check in document["checks"])


def diverging(monkeypatch: pytest.MonkeyPatch) -> Divergence:
    lines = [",".join(f"{i:06d}=1" for i in range(60)) + f"|{free}|60|0|" for free in (100, 99)]
    difference = Divergence("decision", 12345, lines[0], lines[1])
    monkeypatch.setattr(audited, "_compare", lambda *_, **__: difference)
    return difference


def test_a_divergence_exits_with_1_and_shows_where(
    result: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diverging(monkeypatch)
    assert run(["audit", result, "-n", "5"]) == 1
    printed = capsys.readouterr()
    assert "the engines differ at step 12,345" in printed.out
    assert "|100|60|0|" in printed.out
    assert "|99|60|0|" in printed.out
    assert all(len(line) <= 80 for line in printed.out.splitlines())
    assert "the engines differ at step 12,345" in printed.err


def test_a_divergence_in_json_has_both_lines_whole(
    result: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    difference = diverging(monkeypatch)
    assert run(["audit", result, "-n", "5", "--format", "json"]) == 1
    printed = capsys.readouterr()
    found: dict[str, Any] = json.loads(printed.out)["divergence"]
    assert found == {
        "kind": "decision", "step": 12345, "fast": difference.fast, "reference": difference.reference
    }  # fmt: skip
    assert json.loads(printed.err)["error"]["exit_code"] == 1


def test_lines_are_cut_around_the_first_difference() -> None:
    assert _around_difference("a|1", "a|2") == ("a|1", "a|2")
    assert _around_difference(None, "a|2") == ("(ended before)", "a|2")
    fast, reference = _around_difference("x" * 200 + "1" + "y" * 200, "x" * 200 + "2" + "y" * 200)
    assert fast.startswith("...x")
    assert "x1y" in fast
    assert "x2y" in reference
    assert max(len(fast), len(reference)) <= 62


def test_errors_say_what_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "odd.json").write_text("{}")
    assert run(["audit", str(tmp_path / "odd.json")]) == 1
    assert "kvplan.result/1" in capsys.readouterr().err
    assert run(["audit", str(tmp_path / "odd.json"), "--sample", "0"]) == 2


def test_a_changed_trace_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.jsonl"
    row = '{"timestamp": 0, "input_length": 700, "output_length": 4, "hash_ids": [1, 2]}\n'
    trace.write_text(row)
    (tmp_path / "s.yaml").write_text(SCENARIO.split("workload")[0])
    path = str(tmp_path / "r.json")
    assert run(["simulate", str(tmp_path / "s.yaml"), "--trace", str(trace), "-q", "-o", path]) == 0
    assert run(["audit", path]) == 0
    trace.write_text(row * 2)
    capsys.readouterr()
    assert run(["audit", path]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(trace) in printed.err
    assert "has changed" in printed.err


def test_no_line_ends_in_blanks_or_is_wider_than_80_columns(
    result: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run(["audit", result])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert max(map(len, lines)) <= 80
