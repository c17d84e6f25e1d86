"""``kvplan report`` from the command line: where it writes, what it prints, how it fails."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from kvplan.cli.app import run
from tests.reporting.conftest import build

CSV_HEAD = "group,name,statistic,value,unit\n"


@pytest.fixture
def result_file(tmp_path: Path) -> Path:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(build("full")))
    return path


def test_the_page_lies_beside_the_result(result_file, capsys):
    assert run(["report", str(result_file)]) == 0
    page = result_file.with_suffix(".html")
    out, err = capsys.readouterr()
    assert out == ""
    assert f"wrote {page} (2." in err
    assert page.read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in result_file.parent.iterdir()) == ["result.html", "result.json"]


def test_the_page_is_asked_for_as_of_other_commands(result_file, capsys):
    target = result_file.with_name("page.html")
    assert run(["report", str(result_file), "--html", str(target)]) == 0
    assert target.read_text().startswith("<!doctype html>")
    assert run(["report", str(result_file), "--html", str(target), "--format", "md"]) == 2
    assert run(["report", str(result_file), "--html", str(target), "-o", "x.csv"]) == 2
    assert "--html" in capsys.readouterr().err


def test_markdown_brings_its_drawings(result_file, capsys):
    target = result_file.with_name("report.md")
    assert run(["report", str(result_file), "-o", str(target)]) == 0
    names = {path.name for path in result_file.parent.glob("*.svg")}
    assert names == {
        f"report-{key}.svg"
        for key in ("memory", "capacity", "occupancy", "requests", "hit-ratio", "ttft", "tpot", "e2e")
    }
    assert all(f"]({name})" in target.read_text() for name in names)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "start"),
    [
        (["-f", "csv"], CSV_HEAD),
        (["-f", "json"], '{\n  "schema": "kvplan.result/1",'),
        (["-f", "table"], "llama-3.1-8b on h100-sxm serves all 1,000 requests"),
        (["-f", "md", "-o", "-"], "# llama-3.1-8b on h100-sxm serves"),
        (["-o", "-"], "<!doctype html>"),
    ],
)
def test_answers_on_stdout(result_file, capsys, options: list[str], start: str):
    assert run(["report", str(result_file), *options]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(start)
    assert out.endswith("\n")
    assert not out.endswith("\n\n")
    assert err == ""


def test_json_is_the_result_again(result_file, capsys):
    run(["report", str(result_file), "-f", "json"])
    assert json.loads(capsys.readouterr().out) == json.loads(result_file.read_text())


@pytest.mark.parametrize(("name", "start"), [("a.csv", CSV_HEAD), ("a.json", "{\n"), ("a.html", "<!doctype")])
def test_the_suffix_chooses_the_format(result_file, name: str, start: str):
    target = result_file.with_name(name)
    assert run(["report", str(result_file), "-o", str(target)]) == 0
    assert target.read_text().startswith(start)


def test_a_summary_can_go_to_a_file(result_file):
    target = result_file.with_name("summary.txt")
    assert run(["report", str(result_file), "-f", "table", "-o", str(target)]) == 0
    assert "✓ TTFT p99 891 ms, within 2.00 s" in target.read_text()


def test_stdin_needs_a_place_to_write(result_file, capsys, monkeypatch):
    data = result_file.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert run(["report", "-", "-f", "csv"]) == 0
    assert capsys.readouterr().out.startswith(CSV_HEAD)
    assert run(["report", "-"]) == 2
    assert "no place to write beside" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.json"], 1, "missing.json"),
        (["result.json", "-o", "report.pdf"], 2, "cannot tell the format of 'report.pdf'"),
        (["result.json", "-o", "result.json"], 2, "would be overwritten"),
        (["result.json", "-o", "no/such/dir/r.html"], 1, "no/such/dir/r.html"),
        (["result.json", "--open", "-o", "-"], 2, "--open needs an HTML page"),
        (["result.json", "-f", "pdf"], 2, "pdf"),
        (["broken.json"], 1, "broken.json:1:"),
        (["other.json"], 1, "expected schema 'kvplan.result/1'"),
    ],
)
def test_failures_say_what_and_where(result_file, capsys, monkeypatch, arguments, code, message):
    monkeypatch.chdir(result_file.parent)
    Path("broken.json").write_text(result_file.read_text()[:1000])
    Path("other.json").write_text('{"schema": "kvplan.size/1"}')
    before = sorted(Path().iterdir())
    assert run(["report", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert sorted(Path().iterdir()) == before


def test_errors_are_json_where_json_is_asked_for(result_file, capsys):
    result_file.write_text("{}")
    assert run(["report", str(result_file), "--format", "json"]) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["where"] == str(result_file)
    assert error["exit_code"] == 1


def test_thinned_charts_are_announced(tmp_path, capsys):
    path = tmp_path / "long.json"
    path.write_text(json.dumps(build("crowded")))
    assert run(["report", str(path)]) == 0
    assert "warning: charts show at most 2000 of 7000 samples a line" in capsys.readouterr().err


def test_the_same_result_gives_the_same_bytes(result_file, tmp_path):
    for name in ("a.md", "b.md"):
        assert run(["report", str(result_file), "-o", str(tmp_path / name)]) == 0
    first, second = (tmp_path / name for name in ("a.md", "b.md"))
    assert first.read_text().replace("a-", "b-") == second.read_text().replace("a-", "b-")


def test_open_starts_the_browser_on_the_page(result_file, monkeypatch, capsys):
    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(asked.append(url)))
    assert run(["report", str(result_file), "--open"]) == 0
    assert asked == [result_file.with_suffix(".html").as_uri()]
    assert "no browser could be started" in capsys.readouterr().err
