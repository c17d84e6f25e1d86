"""``kvplan gpus``: every GPU in every format, and near names for one that is unknown."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise

import pytest

from kvplan.cli.app import run


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    h100 = next(line for line in lines if line.startswith("h100-sxm"))
    assert h100.split() == ["h100-sxm", "79.19", "3.35", "989", "1979", "450"]


def test_the_list_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus", "list", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "kvplan.gpus/1"
    names = [gpu["name"] for gpu in document["gpus"]]
    assert names == sorted(names)
    assert run(["gpus", "list", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows] == names
    assert run(["gpus", "list", "--format", "md"]) == 0
    assert capsys.readouterr().out.count("\n") == len(names) + 2


def test_one_gpu_with_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus", "show", "H200"]) == 0
    out = capsys.readouterr().out
    assert "139.80 GiB" in out
    assert "4,800 GB/s" in out
    assert "datasheet:" in out
    assert "measured:" in out
    assert run(["gpus", "show", "h200-sxm", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["bandwidth_bytes_per_s"] == 4.8e12


@pytest.mark.parametrize("output", ["csv", "md"])
def test_one_gpu_for_machines(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus", "show", "mi300x", "--format", output]) == 0
    text = capsys.readouterr().out
    assert "mi300x" in text
    # Values for scripts, words for documents.
    assert ("bandwidth_bytes_per_s,5300000000000" in text) is (output == "csv")
    assert ("5,300 GB/s" in text) is (output == "md")


def test_an_unknown_one_suggests_near_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus", "show", "h20O"]) == 2
    captured = capsys.readouterr()
    assert "unknown gpu 'h20O'" in captured.err
    assert "did you mean" in captured.err
    assert captured.out == ""


def test_the_list_is_grouped_by_generation_newest_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line for before, line in pairwise(lines) if not before]
    assert heads[:4] == ["NVIDIA Rubin", "NVIDIA Blackwell", "NVIDIA Hopper", "NVIDIA Ada"]
    assert heads.index("NVIDIA Volta") < heads.index("AMD CDNA4") < heads.index("AMD CDNA2")
    assert lines.index("NVIDIA Hopper") < lines.index(next(x for x in lines if x.startswith("h20 ")))


def test_the_list_takes_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus", "list", "CDNA3", "--format", "json"]) == 0
    names = [gpu["name"] for gpu in json.loads(capsys.readouterr().out)["gpus"]]
    assert names == ["mi300a", "mi300x", "mi325x"]
    assert run(["gpus", "list", "tesla v100"]) == 0
    assert "v100-16g-pcie" in capsys.readouterr().out
    assert run(["gpus", "list", "nothing"]) == 0
    assert capsys.readouterr().out == "no GPU contains 'nothing'\n"
