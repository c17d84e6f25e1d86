"""Finding the format, and saying what is wrong when there is none."""

from __future__ import annotations

import json

import pytest

from kvplan.errors import DataError, UnknownName, UsageError
from kvplan.traces import formats
from kvplan.traces.trace import open_trace

MOONCAKE = '{"timestamp": 0, "input_length": 3, "output_length": 2, "hash_ids": [1]}\n'


def opened(tmp_path, content, name="trace.jsonl", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_trace(path, **options)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_trace_fails(tmp_path, content):
    with pytest.raises(DataError, match="the trace is empty"):
        opened(tmp_path, content)


def test_a_header_alone_is_an_empty_trace(tmp_path):
    trace = opened(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\r\n", "a.csv")
    with pytest.raises(DataError, match="the trace is empty"):
        list(trace.requests())


def test_a_trace_of_another_format_than_declared(tmp_path):
    with pytest.raises(DataError, match="not in the format azure: it looks like mooncake") as caught:
        opened(tmp_path, MOONCAKE, format="azure")
    assert caught.value.where.endswith("trace.jsonl:1")
    assert caught.value.hint == "say mooncake, or auto"


def test_no_row_understood_names_the_line_and_why(tmp_path):
    trace = opened(tmp_path, MOONCAKE.replace('"hash_ids": [1]', '"hash_ids": [1, 2]') * 3)
    with pytest.raises(
        DataError, match="none of the 3 rows could be used as mooncake: number of hash_ids"
    ) as caught:
        list(trace.requests())
    assert caught.value.where.endswith("trace.jsonl:1")


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("hello\nworld\n", "not a trace in a known format", "formats: azure"),
        (
            '{"timestamp": 0, "input_len": 3, "hash_ids": []}\n',
            "not a trace in a known format",
            "nearest is mooncake",
        ),
        (
            "TIMESTAMP,ContextTokens\n1,2\n",
            "no column of the tokens that answers have",
            "name it output_tokens",
        ),
        (
            "t,prompt_tokens,total_tokens\n1,2,3\n",
            "the columns are t, prompt_tokens, total_tokens",
            "of the total, what the other side has not",
        ),
        (
            "Zeit;Eingabe;Ausgabe\n1;2;3\n",
            "not a trace in a known format",
            "these are zeit, eingabe, ausgabe",
        ),
        ("[2026-03-11 09:05:01 TP0] Prefill batch. #new-seq: 3\n", "log of a server", "explain-log"),
        (b"\x7fELF\0\0\0", "binary file", ""),
        (b"PAR1\x15\x04\0\0", "not a Parquet file that can be read", ""),
        (b"7z\xbc\xaf\x27\x1c\0\4", "this is a 7z archive", "unpack it first"),
        ("x".encode("utf-16"), "UTF-16", "UTF-8"),
        (
            '{"timestamp": "82", "input_length": 5, "output_length": 1, "hash_ids": {"sys_prompt": [1], "passages_ids": []}}\n',
            "RAGPulse",
            "",
        ),
        ('{"timestamp": 1, "input": "", "output": "", "session_id": ""}\n', "LMCache", "tokenizer"),
    ],
)
def test_unknown_content_says_what_is_nearest(tmp_path, content, message, hint):
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path, content)
    assert str(tmp_path) in caught.value.where
    assert hint in (caught.value.hint or "")


def test_a_dirty_first_line_does_not_hide_the_format(tmp_path):
    trace = opened(tmp_path, "# made by hand\n" + MOONCAKE)
    assert sum(1 for _ in trace.requests()) == 1
    assert trace.report.dropped["not JSON"].lines == [1]


def test_every_format_is_described_and_found_by_its_name():
    for name in formats.names():
        found = formats.get(name)
        assert found.name == name
        assert found.summary


def test_a_mistyped_format_gets_a_suggestion():
    with pytest.raises(UnknownName) as caught:
        formats.get("moncake")
    assert caught.value.suggestions == ["mooncake"]


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 0},
        {"time_scale": 0.0},
        {"time_scale": float("nan")},
        {"rate_scale": float("inf")},
        {"rate": -1.0},
        {"block_size": 0},
        {"sort": "sideways"},
        {"format": "parquet"},
    ],
)
def test_options_out_of_range(tmp_path, options):
    with pytest.raises(UsageError):
        opened(tmp_path, MOONCAKE, **options)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('[{"id": "a", "conversations": [{"from": "human", "value": "hi"}]}]', "ShareGPT"),
        ('[\n  {\n    "conversations": [\n {"from": "human",\n "value": "hi"}]}]', "ShareGPT"),
        ('{"custom_id": "1", "url": "/v1", "body": {"messages": []}}\n', "an OpenAI batch"),
        ('{"messages": [{"role": "user", "content": "hi"}]}\n', "chat messages"),
    ],
)
def test_text_without_token_counts_is_recognised_only_to_say_so(tmp_path, content, what):
    with pytest.raises(DataError, match=f"this looks like {what}, which kvplan does not read") as caught:
        opened(tmp_path, content)
    assert "raw text needs a tokenizer" in caught.value.hint


def test_an_array_of_known_rows_is_read_as_its_rows(tmp_path):
    trace = opened(tmp_path, f"[{MOONCAKE.strip()},\n{MOONCAKE.strip()}]")
    assert trace.format == "mooncake"
    assert [len(list(trace.requests())) for _ in range(2)] == [2, 2]


def test_an_array_that_breaks_off_says_so(tmp_path):
    with pytest.raises(DataError, match="not a trace in a known format") as caught:
        opened(tmp_path, f"[{MOONCAKE.strip()},\n")
    assert "its JSON is whole" in caught.value.hint


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,5,5\n"


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("2024-05-10 00:00:00,5,5\n", "the first line holds values", "arrival_s,prompt_tokens,output_tokens"),
        (AZURE.replace("\n", "\r"), "carriage returns alone", "line feeds"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a pointer of Git LFS",
            "git lfs pull",
        ),
        ("<!DOCTYPE html>\n<html><body>a,b</body></html>", "this is a web page", "the file itself"),
        ('{"schema": "kvplan.result/1", "complete": true}', "kvplan wrote itself: result", "kvplan report"),
        (
            '{"metadata": {"request_start_ns": 1}, "metrics": {}}\n',
            "an export of aiperf",
            "kvplan calibrate --engine-log",
        ),
        ('{"timestamp": 0, "text_input": "a", "output_length": 5}\n', "prompts for aiperf", "tokenizer"),
        ('{"conversation": [{"role": "user", "content": "a"}]}\n', "LMSYS conversations", "tokenizer"),
    ],
)
def test_what_the_content_is_instead_is_said(tmp_path, content, message, hint):
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path, content)
    assert hint in caught.value.hint


def test_a_remark_before_the_header_is_told_with_the_line_of_the_header(tmp_path):
    with pytest.raises(DataError, match="names of the columns are not in the first line") as caught:
        opened(tmp_path, "# from the cluster\n# in May\n" + AZURE, "a.csv")
    assert caught.value.where.endswith("a.csv:3")


def test_objects_over_several_lines_are_read(tmp_path):
    row = json.dumps(json.loads(MOONCAKE), indent=2)
    trace = opened(tmp_path, f"{row}\n{row}\n")
    assert trace.format == "mooncake"
    assert sum(1 for _ in trace.requests()) == 2


def test_lines_of_objects_are_not_compared_with_tables(tmp_path):
    with pytest.raises(DataError) as caught:
        opened(tmp_path, '{"arrival_s": 0.5, "prompt": "five", "output_tokens": 3}\n')
    assert "csv" not in caught.value.hint.partition("formats:")[0]
    example = caught.value.hint[caught.value.hint.index("{") : caught.value.hint.index("}") + 1]
    assert sum(1 for _ in opened(tmp_path, example + "\n").requests()) == 1


def test_answers_of_no_token_alone_say_how_to_keep_them(tmp_path):
    trace = opened(tmp_path, MOONCAKE.replace('"output_length": 2', '"output_length": 0'))
    with pytest.raises(DataError, match="zero output tokens") as caught:
        list(trace.requests())
    assert "trace: --clamp-outputs; simulate: --set workload.clamp_outputs=true" in caught.value.hint


@pytest.mark.parametrize("time", ["1_000", "١٢", "0x10"])
def test_a_time_is_a_number_as_tables_write_it(tmp_path, time):
    for header, row in (
        ("arrival_s,prompt_tokens,output_tokens", "{},5,5"),
        ("Timestamp,Model,Request tokens,Response tokens", "{},m,5,5"),
    ):
        content = f"{header}\n{row.format('7')}\n{row.format(time)}\n"
        trace = opened(tmp_path, content, "a.csv")
        assert sum(1 for _ in trace.requests()) == 1
        assert trace.report.dropped_rows == 1
