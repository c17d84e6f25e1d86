"""``kvplan trace`` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvplan.cli.app import run

ROW = '{{"timestamp": {at}, "input_length": {tokens}, "output_length": 4, "hash_ids": {ids}}}\n'


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    rows = [ROW.format(at=i * 500, tokens=600, ids=[0, i]) for i in range(20)]
    path.write_text("".join(rows) + "broken\n" + ROW.format(at=99_000, tokens=600, ids=[1, 2, 3]))
    return path


def answered(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> tuple[str, str]:
    assert run(["trace", *argv]) == code
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    return found.out, found.err


def test_describe_accounts_for_every_row(capsys, trace):
    out, err = answered(capsys, "describe", str(trace))
    assert "22 rows = 20 requests + 2 dropped" in out
    assert "1 not JSON (line 21)" in out
    assert "(line 22)" in out
    assert "content bound" in out
    assert max(map(len, out.splitlines()[1:])) <= 80
    assert err == ""


def test_describe_json(capsys, trace):
    out, _ = answered(capsys, "describe", str(trace), "--format", "json")
    found = json.loads(out)
    assert found["schema"] == "kvplan.trace/1"
    assert found["trace"]["format"] == "mooncake"
    books = found["accounting"]
    assert books["rows"] == books["requests"] + sum(d["count"] for d in books["dropped"].values())
    assert found["statistics"]["requests"] == 20
    assert found["statistics"]["reuse"]["hit_tokens"] == 19 * 512
    assert answered(capsys, "describe", str(trace), "--format", "json")[0] == out


@pytest.mark.parametrize("form", ["csv", "md"])
def test_describe_as_a_table_of_metrics(capsys, trace, form):
    out, _ = answered(capsys, "describe", str(trace), "--format", form)
    assert "statistics.input_tokens.mean" in out
    assert "accounting.dropped.not JSON.count" in out


def test_describe_says_unknown_not_zero(capsys, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44")
    out, _ = answered(capsys, "describe", str(path))
    assert "unknown" in out
    assert "hit" not in out
    assert (
        json.loads(answered(capsys, "describe", str(path), "-f", "json")[0])["statistics"]["reuse"]
        == "unknown"
    )


@pytest.mark.parametrize("name", ["chat", "rag", "agentic", "fixed"])
def test_describe_a_bundled_workload(capsys, name):
    out, _ = answered(capsys, "describe", name, "--limit", "200", "--rate", "5", "--no-lru")
    assert out.startswith(f"{name} (workload)")
    assert max(map(len, out.splitlines())) <= 80


def test_strict_stops_at_the_row(capsys, trace):
    _, err = answered(capsys, "describe", str(trace), "--strict", code=1)
    assert f"{trace}:21" in err
    assert "hint:" in err


@pytest.mark.parametrize(
    ("content", "argv", "message"),
    [
        ("", (), "the trace is empty"),
        ("hello\n", (), "not a trace in a known format"),
        (ROW.format(at=0, tokens=600, ids=[0, 1]), ("--trace-format", "azure"), "it looks like mooncake"),
    ],
)
def test_traces_that_are_none(capsys, tmp_path, content, argv, message):
    path = tmp_path / "t.jsonl"
    path.write_text(content)
    _, err = answered(capsys, "describe", str(path), *argv, code=1)
    assert message in err
    _, err = answered(capsys, "describe", str(path), *argv, "--format", "json", code=1)
    assert message in json.loads(err)["error"]["message"]


def test_no_such_trace(capsys):
    _, err = answered(capsys, "describe", "chta", code=1)
    assert "no such trace file" in err
    assert "chat" in err


@pytest.mark.parametrize(
    "argv",
    [
        ("describe", "TRACE", "--trace-format", "moncake"),
        ("describe", "TRACE", "--limit", "0"),
        ("describe", "TRACE", "--time-scale", "nan"),
        ("convert", "TRACE", "OUT", "--to", "parquet"),
        ("convert", "TRACE", "OUT", "--block-size", "0"),
        ("convert", "TRACE", "OUT", "--to-block", "0"),
        ("describe", "TRACE", "--reuse-block", "0"),
        ("synthesize", "chatt"),
        ("synthesize", "chat", "--requests", "0"),
        ("synthesize", "chat", "--rate", "-1"),
        ("synthesize", "fixed", "--input-tokens", "lots"),
        ("synthesize", "chat", "--arrivals", "never"),
        ("synthesize", "chat", "--seed", "-1"),
    ],
)
def test_usage_errors(capsys, trace, tmp_path, argv):
    out = tmp_path / "out.jsonl"
    answered(capsys, *({"TRACE": str(trace), "OUT": str(out)}.get(a, a) for a in argv), code=2)
    assert not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["trace.jsonl"]


def test_convert_keeps_content_and_says_what_it_lost(capsys, trace, tmp_path):
    exact, back, lengths = (tmp_path / name for name in ("t.jsonl", "m.jsonl", "l.csv"))
    out, _ = answered(capsys, "convert", str(trace), str(exact), "--to", "tokens")
    assert "22 rows = 20 requests + 2 dropped" in out
    answered(capsys, "convert", str(exact), str(back), "--to", "mooncake", "--to-block", "512")
    before, after = (
        json.loads(answered(capsys, "describe", str(p), "-f", "json")[0])["statistics"] for p in (trace, back)
    )
    assert before == after
    out, _ = answered(capsys, "convert", str(back), str(lengths), "--to", "csv", "--format", "json")
    found = json.loads(out)
    assert found["accounting"]["requests"] == 20
    assert "not kept" in found["losses"][0]


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("out.csv", (), "arrival_s,"),
        ("out.CSV", (), "arrival_s,"),
        ("out.jsonl", (), '{"timestamp"'),
        ("out", (), '{"timestamp"'),
        ("out.csv", ("--to", "mooncake"), '{"timestamp"'),
    ],
)
def test_the_name_of_the_file_says_the_format(capsys, trace, tmp_path, name, options, first):
    target = tmp_path / name
    answered(capsys, "convert", str(trace), str(target), *options)
    assert target.read_text().startswith(first)
    synthetic = tmp_path / f"synthetic-{name}"
    answered(capsys, "synthesize", "chat", "-n", "3", "-o", str(synthetic), *options)
    assert synthetic.read_text().startswith(first)


def test_dates_in_a_table_of_seconds_are_read(capsys, tmp_path):
    table = tmp_path / "requests.csv"
    table.write_text("arrival_s,prompt_tokens,output_tokens\n2025-11-03T09:00:00.25+02:00,100,10\n")
    out, _ = answered(capsys, "describe", str(table))
    assert "arrivals from 'arrival_s' as dates" in out
    columns = "TIMESTAMP,ContextTokens,GeneratedTokens"
    table.write_text(table.read_text().replace("arrival_s,prompt_tokens,output_tokens", columns))
    answered(capsys, "describe", str(table))


@pytest.mark.parametrize("name", ["out.parquet", "out.csv.gz", "out.jsonl.zst"])
def test_a_name_that_promises_another_format_is_refused(capsys, trace, tmp_path, name):
    target = tmp_path / name
    _, err = answered(capsys, "convert", str(trace), str(target), "--to", "csv", code=2)
    assert "end the name in .jsonl or .csv" in err
    assert not target.exists()


def test_reading_a_long_trace_shows_where_it_is(monkeypatch, capsys, trace):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("kvplan.cli.progress._INTERVAL_S", 0.0)
    for command in (
        ("describe", str(trace)),
        ("convert", str(trace), "-"),
        ("ladder", str(trace), "--blocks", "9"),
    ):
        _, err = answered(capsys, *command)
        assert "20 requests" in err


def test_convert_to_stdout_prints_only_the_trace(capsys, trace):
    out, err = answered(capsys, "convert", str(trace), "-", "--to", "csv")
    assert len(out.splitlines()) == 21
    assert "rows read: 22" in err
    assert "rows dropped: 2" in err


def test_a_failed_convert_leaves_no_file_and_keeps_the_old_one(capsys, trace, tmp_path):
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    answered(capsys, "convert", str(trace), str(target), "--strict", code=1)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "trace.jsonl"]


def test_a_trace_can_be_converted_onto_itself(capsys, trace):
    answered(capsys, "convert", str(trace), str(trace))
    out, _ = answered(capsys, "describe", str(trace))
    assert "20 rows = 20 requests + 0 dropped" in out


def test_synthesize_is_the_same_for_the_same_seed(capsys, tmp_path):
    first, _ = answered(capsys, "synthesize", "chat", "-n", "50", "--seed", "3")
    assert answered(capsys, "synthesize", "chat", "-n", "50", "--seed", "3")[0] == first
    assert answered(capsys, "synthesize", "chat", "-n", "50", "--seed", "4")[0] != first
    path = tmp_path / "chat.jsonl"
    out, _ = answered(capsys, "synthesize", "chat", "-n", "50", "--seed", "3", "-o", str(path))
    assert path.read_text() == first
    assert "50 requests" in out
    drawn, read = (
        json.loads(answered(capsys, "describe", what, "--limit", "50", "--seed", "3", "-f", "json")[0])[
            "statistics"
        ]
        for what in ("chat", str(path))
    )
    assert drawn["reuse"] == read["reuse"]
    assert drawn["input_tokens"] == read["input_tokens"]


@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_formats(capsys, form):
    out, _ = answered(capsys, "formats", "--format", form)
    assert "mooncake" in out
    assert "agentic" in out
    if form == "table":
        assert max(map(len, out.splitlines())) <= 80


def test_reading_from_a_pipe_and_imports_stay_light(trace):
    program = (
        "import sys; from kvplan.cli.app import run; code = run(['trace', 'describe', '-', '--no-lru']);"
        "heavy = {'numpy', 'pandas', 'torch', 'plotly', 'pyarrow', 'yaml', 'jinja2'} & set(sys.modules);"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    with trace.open("rb") as piped:
        done = subprocess.run(
            [sys.executable, "-c", program], stdin=piped, capture_output=True, text=True, env=dict(os.environ)
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("<stdin> (mooncake)")


@pytest.mark.parametrize("to", ["mooncake", "tokens"])
def test_converting_does_not_turn_unknown_reuse_into_none(capsys, tmp_path, to):
    lengths, blocks = tmp_path / "a.csv", tmp_path / "m.jsonl"
    lengths.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,2000,3\n1,5,3\n")
    answered(capsys, "convert", str(lengths), str(blocks), "--to", to)
    assert "hash_ids" not in blocks.read_text()
    assert (
        json.loads(answered(capsys, "describe", str(blocks), "-f", "json")[0])["statistics"]["reuse"]
        == "unknown"
    )


def test_block_sizes_of_the_trace_and_of_the_cache(capsys, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(ROW.format(at=0, tokens=33, ids=[1, 2, 3]) * 2)
    _, err = answered(capsys, "describe", str(path), code=1)
    assert "number of hash_ids is not input_length / 512" in err
    assert "--block-size" in err
    own = json.loads(answered(capsys, "describe", str(path), "--block-size", "16", "-f", "json")[0])
    assert own["trace"]["block_size"] == own["statistics"]["reuse"]["block_size"] == 16
    assert own["statistics"]["reuse"]["hit_tokens"] == 32
    other = answered(capsys, "describe", str(path), "--block-size", "16", "--reuse-block", "8", "-f", "json")[
        0
    ]
    assert json.loads(other)["statistics"]["reuse"]["block_refs"] == 10


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--limit", "0"], "between 1 and"),
        (["--rate", "0"], "the rate"),
        (["--strict"], "--strict is for trace files"),
        (["--block-size", "7"], "--block-size is for trace files"),
        (["--rate-scale", "2"], "--rate-scale is for trace files"),
        (["--trace-format", "csv"], "--trace-format is for trace files"),
    ],
)
def test_a_workload_takes_its_own_options_only(
    more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trace", "describe", "chat", *more]) == 2
    assert words in capsys.readouterr().err


def test_a_right_format_with_impossible_rows_is_not_called_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "huge.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 99999999999, "output_length": 5, "hash_ids": []}\n')
    assert run(["trace", "describe", str(path)]) == 1
    err = capsys.readouterr().err
    assert "more than 536,870,912 prompt tokens" in err
    assert "nearest" not in err


def test_an_empty_name_is_no_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", "describe", ""]) == 1
    assert "no such trace file" in capsys.readouterr().err


def test_formats_show_a_file_of_each_kind_that_is_written(capsys):
    assert run(["trace", "formats"]) == 0
    shown = capsys.readouterr().out
    assert '{"id": "a", "arrival": 1.5, "prompt_token_ids": [5, 6, 7], "output_length":' in shown
    assert '"hash_ids"' in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_columns_hold_the_longest_prompts(capsys, tmp_path):
    path = tmp_path / "huge.csv"
    rows = "".join(f"{i},{100_000_000 * i},{500 + i}\n" for i in range(1, 6))
    path.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    assert run(["trace", "describe", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    head, prompts, answers = lines[
        (at := next(i for i, line in enumerate(lines) if line.startswith("tokens"))) : at + 3
    ]
    assert prompts.split() == [
        "input",
        "300,000,000",
        "300,000,000",
        "460,000,000",
        "496,000,000",
        "500,000,000",
    ]
    assert answers.split() == ["output", "503.0", "503.0", "504.6", "505.0", "505"]
    assert len(head) == len(prompts) == len(answers) <= 80


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            "arrival_s,prompt_tokens,output_tokens,prompt_tokens",
            "the column 'prompt_tokens' is there 2 times",
        ),
        ("Arrival_s,arrival_s,prompt_tokens,output_tokens", "the column 'arrival_s' is there 2 times"),
        (
            "prompt_tokens,prompt_tokens,output_tokens,output_tokens",
            "2 columns are there more than once: 'prompt_tokens', 'output_tokens'",
        ),
    ],
)
def test_a_repeated_column_is_refused(capsys, tmp_path, header, words):
    path = tmp_path / "twice.csv"
    path.write_text(f"{header}\n0,10,5,20\n")
    assert run(["trace", "describe", str(path)]) == 1
    err = capsys.readouterr().err
    assert words in err
    assert "twice.csv:1" in err


def test_a_repeated_column_that_is_not_read_does_no_harm(capsys, tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("note,arrival_s,prompt_tokens,output_tokens,note\nx,0,10,5,y\n")
    assert run(["trace", "describe", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1 row = 1 request" in out
    assert "not read: 'note'\n" in out


@pytest.mark.parametrize(
    ("block", "says"), [("16", "hits are a lower bound"), ("1024", "hits on a part of a block are lost")]
)
def test_converting_to_other_blocks_says_what_is_lost(capsys, trace, tmp_path, block, says):
    target = tmp_path / "out.jsonl"
    found = json.loads(
        answered(capsys, "convert", str(trace), str(target), "--to-block", block, "-f", "json")[0]
    )
    assert any(says in loss for loss in found["losses"])
    same = json.loads(
        answered(capsys, "convert", str(trace), str(target), "--to-block", "512", "-f", "json")[0]
    )
    assert same["losses"] == []


def test_a_rate_far_below_one_a_second_is_an_hour_s(capsys, tmp_path):
    path = tmp_path / "slow.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,10,1\n3600,10,1\n7200,10,1\n")
    out, _ = answered(capsys, "describe", str(path))
    assert "1.5 /h" in next(line for line in out.splitlines() if line.startswith("  rate"))
