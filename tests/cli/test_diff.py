"""``kvplan diff``: two results side by side."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from kvplan.cli.app import run

SCENARIO = """\
model: llama-3.1-8b
gpu: h100-sxm
cache: {blocks: 3000}
workload: {synthesize: chat, requests: 60, rate: 8}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("diff")
    scenario = folder / "scenario.yaml"
    scenario.write_text(SCENARIO)
    found = {}
    for name, words in {
        "a": [], "b": ["--set", "cache.eviction=lfu", "--set", "cache.pinned={prefixes: [{tokens: 64}]}"],
        "slow": ["--gpu", "l4", "--set", "latency.memory_efficiency=0.4"],
    }.items():  # fmt: skip
        found[name] = str(folder / f"{name}.json")
        assert run(["simulate", str(scenario), "-q", "-o", found[name], *words]) == 0
    return found


def test_what_differs_is_shown(results: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", results["a"], results["b"]]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "cache.eviction lru lfu" in words
    assert "pinned prefixes: pinned" in words
    assert "TTFT p99" in words
    assert "both results have the same clock" in words


def test_a_page_is_written_beside_the_answer(
    results: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "diff.html"
    assert run(["diff", results["a"], results["b"], "--html", str(page)]) == 0
    said = capsys.readouterr()
    assert "TTFT p99" in said.out
    assert f"wrote {page}" in said.err
    assert "cache.eviction" in page.read_text()
    assert run(["diff", results["a"], results["b"], "--html", "-"]) == 0
    assert capsys.readouterr().out == page.read_text()
    assert run(["diff", results["a"], results["b"], "--html", results["a"]]) == 2
    assert "A" in capsys.readouterr().err


def test_equal_results_do_not_differ(results: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", results["a"], results["a"], "-f", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "kvplan.diff/1"
    assert document["scenario"] == document["totals"] == document["strategies"] == []
    assert {item["judgement"] for item in document["latency"]} == {"equal"}
    assert run(["diff", results["a"], results["a"]]) == 0
    assert "They do not differ." in capsys.readouterr().out


def test_far_apart_is_beyond_the_bands(results: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", results["a"], results["slow"], "-f", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    judged = {item["name"]: item for item in document["latency"]}
    assert judged["tpot_p50"]["judgement"] == "beyond"
    assert judged["tpot_p50"]["ratio"] > 1
    assert any("clocks differ" in note for note in document["notes"])
    assert [change["name"] for change in document["scenario"]][:1] == ["gpu"]


@pytest.mark.parametrize("form", ["table", "md", "csv", "json"])
def test_it_says_the_same_every_time(
    results: dict[str, str], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for _ in range(2):
        assert run(["diff", results["a"], results["b"], "-f", form]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""


def test_csv_has_raw_numbers(results: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", results["a"], results["b"], "-f", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    latency = [row for row in rows if row["group"] == "latency"]
    assert len(latency) == 12
    assert all(float(row["a"]) > 0 and row["judgement"] for row in latency)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-", "-"], 2, "standard input holds one result"),
        (["/nowhere.json", "-"], 1, "No such file"),
        (["{scenario}", "{scenario}"], 1, "not valid JSON"),
    ],
)
def test_errors(
    words: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    assert run(["diff", *(word.replace("{scenario}", str(path)) for word in words)]) == code
    assert said in capsys.readouterr().err


def test_the_first_lines_say_what_changed(
    results: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("table", "md"):
        assert run(["diff", results["a"], results["slow"], "-f", form]) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert "B against A: TTFT p99 " in words
        assert words.index("(beyond the error bands)") < words.index("Scenario")
        assert run(["diff", results["a"], results["a"], "-f", form]) == 0
        assert "against" not in capsys.readouterr().out
