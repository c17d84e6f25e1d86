"""Where bytes come from: compression, standard input, bounds, and damage."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import sys

import pytest

from kvplan.errors import DataError, UsageError
from kvplan.traces import source as source_module
from kvplan.traces.trace import open_trace

LINE = b'{"timestamp": %d, "input_length": 3, "output_length": 2, "hash_ids": [1]}\n'
TEXT = b"".join(LINE % i for i in range(2_000))


def test_gzip_is_recognised_by_content_not_by_name(reading):
    requests, _ = reading(gzip.compress(TEXT), "trace.jsonl")
    assert len(requests) == 2_000


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the zstd program is not installed")
def test_zstd(reading):
    packed = subprocess.run(["zstd", "-qc"], input=TEXT, capture_output=True, check=True).stdout
    requests, _ = reading(packed, "trace.jsonl.zst")
    assert len(requests) == 2_000
    with pytest.raises(DataError, match="damaged or cut short"):
        reading(packed[: len(packed) // 2], "cut.zst")


def test_gzip_cut_short_is_an_error_not_a_shorter_trace(reading):
    packed = gzip.compress(b"".join(LINE % (i * 7919 % 100_003) for i in range(20_000)), mtime=0)
    with pytest.raises(DataError, match="damaged or cut short"):
        reading(packed[: len(packed) - 2_000], "t.gz", sort="full")


@pytest.mark.parametrize("content", [TEXT, gzip.compress(TEXT)], ids=["plain", "gzip"])
def test_standard_input_once(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    trace = open_trace("-")
    assert trace.name == "<stdin>"
    assert sum(1 for _ in trace.requests()) == 2_000
    with pytest.raises(UsageError, match="read already"):
        trace.requests()


def test_files_can_be_read_again(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(TEXT)
    trace = open_trace(path, limit=5)
    assert list(trace.requests()) == list(trace.requests())
    assert trace.report.rows == 5


def test_a_line_without_end_is_refused(reading, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_LINE_BYTES", 1_000)
    with pytest.raises(DataError, match="longer than") as caught:
        reading(LINE % 1 + b'{"timestamp": 2, "x": "' + b"y" * 5_000, "t.jsonl")
    assert caught.value.where.endswith("t.jsonl:2")


def test_an_endless_document_is_refused(reading, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_DOCUMENT_BYTES", 1_000)
    with pytest.raises(DataError, match="larger than"):
        reading('{\n"spans": [' + " " * 5_000 + "]}", "s.json")


def test_reading_holds_few_requests_at_a_time(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(TEXT * 10)
    trace = open_trace(path, sort="window")
    requests = trace.requests()
    next(requests)
    assert trace.report.rows < 5_000
    requests.close()


def test_a_directory_that_is_no_trace(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(DataError):
        open_trace(tmp_path)


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match="no such trace file"):
        open_trace(tmp_path / "none.jsonl")
