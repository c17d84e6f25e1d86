"""``kvplan trace ladder`` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvplan.engine.replacement.catalog import ONLINE, POLICIES

COMMAND = ("trace", "ladder", "agentic", "--limit", "120", "--blocks", "6000", "--blocks", "1500")


def kvplan(*words: str, code: int = 0, text: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "kvplan", *words], text=True, capture_output=True, input=text, timeout=120
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def document() -> dict:
    return json.loads(kvplan(*COMMAND, "--format", "json").stdout)


def test_the_rungs_are_in_order(document: dict) -> None:
    assert document["schema"] == "kvplan.ladder/1"
    assert [rung["blocks"] for rung in document["rungs"]] == [1500, 6000]
    bound = document["content_bound"]["hit_blocks"]
    for rung in document["rungs"]:
        hits = {name: found["hit_blocks"] for name, found in rung["policies"].items()}
        assert set(hits) == set(POLICIES)
        assert hits["lru"] <= hits[rung["best_online"]] <= hits["belady"] <= bound
        assert max(hits[name] for name in ONLINE) == hits[rung["best_online"]]
        assert rung["verdict"] == "capacity"


def test_every_form_says_the_same(document: dict) -> None:
    table = kvplan(*COMMAND).stdout
    assert all(len(line) <= 80 for line in table.splitlines())
    rows = list(csv.DictReader(io.StringIO(kvplan(*COMMAND, "--format", "csv").stdout)))
    assert len(rows) == 2 * (len(POLICIES) + 1)
    for row in rows:
        rung = next(rung for rung in document["rungs"] if rung["blocks"] == int(row["blocks"]))
        found = (
            document["content_bound"] if row["policy"] == "content bound" else rung["policies"][row["policy"]]
        )
        assert int(row["hit_blocks"]) == found["hit_blocks"]
        assert f"{row['policy']:<15}{100 * float(row['block_hit_ratio']):>8.2f}" in table
    assert kvplan(*COMMAND, "--format", "md").stdout.count("\n") == 2 + len(rows)


def test_the_same_bytes_every_time() -> None:
    assert kvplan(*COMMAND).stdout == kvplan(*COMMAND).stdout


def test_a_trace_on_standard_input(tmp_path: Path) -> None:
    kvplan("trace", "synthesize", "chat", "-n", "80", "-o", str(tmp_path / "chat.jsonl"))
    text = (tmp_path / "chat.jsonl").read_text()
    words = ("--blocks", "100", "--trace-block", "16", "--format", "json")
    piped = json.loads(kvplan("trace", "ladder", "-", *words, text=text).stdout)
    named = json.loads(kvplan("trace", "ladder", str(tmp_path / "chat.jsonl"), *words).stdout)
    assert piped["rungs"] == named["rungs"]
    assert named["accounting"]["requests"] == named["requests"] == 80


def test_unknown_content_is_no_basis(tmp_path: Path) -> None:
    trace = tmp_path / "lengths.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,100,10\n1,200,20\n")
    done = kvplan("trace", "ladder", str(trace), "--blocks", "10", code=1)
    assert "does not say what its prompts contain" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("agentic",), 2, "--blocks"),
        (("agentic", "--blocks", "0"), 2, "--blocks"),
        (("agentic", "--blocks", "10", "--block-size", "0"), 2, "block size"),
        (("nothing.jsonl", "--blocks", "10"), 1, "no such trace file"),
    ],
)
def test_what_cannot_be_asked(words: tuple[str, ...], code: int, says: str) -> None:
    assert says in kvplan("trace", "ladder", *words, code=code).stderr
