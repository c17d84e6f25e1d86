"""Pipes, compressed files, directories and archives: one trace is read, several are named, nothing is skipped."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from kvplan.errors import DataError, UsageError
from kvplan.traces import archives, compression
from kvplan.traces.trace import open_trace

LINE = '{"timestamp": %d, "input_length": 3, "output_length": 2, "hash_ids": [1]}\n'
TEXT = "".join(LINE % at for at in range(300)).encode()
TABLE = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930,1000,20\n"


def session(name: str, calls: int = 2) -> bytes:
    requests = [{"t": at, "in": 64, "out": 5, "hash_ids": [at]} for at in range(calls)]
    return json.dumps({"id": name, "hash_id_scope": "local", "block_size": 64, "requests": requests}).encode()


def tarred(files: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=kind) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def noise(size: int) -> bytes:
    return random.Random(0).randbytes(size)


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = TEXT * 20  # more than a pipe holds: what sniffs must hand it on
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    trace = open_trace(pipe, sort="full")
    assert trace.name == str(pipe)
    assert sum(1 for _ in trace.requests()) == 6_000
    writer.join()
    with pytest.raises(UsageError, match="is a pipe and was read already"):
        trace.requests()


def test_a_zip_comes_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(zipped({"a.jsonl": TEXT}),))
    writer.start()
    assert sum(1 for _ in open_trace(pipe).requests()) == 300
    writer.join()


@pytest.mark.parametrize(
    "pack",
    [
        bz2.compress,
        lzma.compress,
        lambda text: lzma.compress(text[:5000]) + bytes(8) + lzma.compress(text[5000:]),
    ],
)
def test_bzip2_and_xz(reading, pack) -> None:
    assert len(reading(pack(TEXT), "a.jsonl")[0]) == 300
    with pytest.raises(DataError, match="damaged or cut short"):
        reading(pack(TEXT)[:-20], "cut.jsonl")


def test_xz_that_asks_for_too_much_memory(reading, monkeypatch) -> None:
    monkeypatch.setattr(compression, "MAX_XZ_BYTES", 1 << 16)
    with pytest.raises(DataError, match=r"damaged or cut short.*[Mm]emory"):
        reading(lzma.compress(TEXT), "a.jsonl.xz")


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_the_one_trace_of_a_tar_is_read(reading, kind, pack) -> None:
    requests, trace = reading(
        pack(tarred({"day/a.csv": TABLE, "day/README.md": b"# A day\n"}, kind)), "a.tar"
    )
    assert len(requests) == 1
    assert "files not read: day/README.md" in trace.report.remarks()


def test_a_tar_without_magic_is_known_by_its_checksum(reading) -> None:
    content = bytearray(tarred({"a.jsonl": TEXT}))
    content[257:265] = bytes(8)
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    assert len(reading(bytes(content), "a.tar")[0]) == 300


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_one_trace_of_a_zip_is_read(reading, method) -> None:
    requests, trace = reading(zipped({"LICENSE": b"CC BY\n", "a.jsonl": TEXT}, method), "a.zip")
    assert len(requests) == 300
    assert "files not read: LICENSE" in trace.report.remarks()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-30], "damaged or cut short"),
        (
            lambda text: text.replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\xf5"),
            "damaged .* version",
        ),
        (lambda text: text[:-10] + b"\xff\xff\xff\x7f" + text[-6:], "damaged or cut short"),
        (lambda text: text[:4] + text[8:], "damaged or cut short"),
        (
            lambda text: text.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
            "encrypted",
        ),
    ],
)
def test_a_zip_that_cannot_be_read(reading, damage, message) -> None:
    content = damage(zipped({"a.jsonl": TEXT}))
    with pytest.raises(DataError, match=message):
        reading(content, "a.zip")


def test_a_zip_packed_in_an_unusual_way(reading) -> None:
    with pytest.raises(DataError, match="compressed in an unusual way"):
        reading(zipped({"a.jsonl": TEXT}, zipfile.ZIP_LZMA), "a.zip")


@pytest.mark.parametrize("pack", [tarred, zipped])
def test_several_traces_in_an_archive_are_refused_by_name(reading, pack) -> None:
    with pytest.raises(DataError, match=r"several traces in it: a\.csv, b\.csv") as caught:
        reading(pack({"a.csv": TABLE, "b.csv": TABLE}), "both")
    assert "unpack it" in caught.value.hint


def test_a_second_trace_behind_a_long_one_is_noticed(reading) -> None:
    with pytest.raises(DataError, match=r"several traces in it: a\.jsonl, b\.jsonl"):
        reading(tarred({"a.jsonl": TEXT * 20, "b.jsonl": TEXT}), "both.tar", sort="full")


def test_the_trace_of_a_tar_may_be_compressed_and_far_behind(reading) -> None:
    content = tarred({"notes.md": noise(300_000), "a.jsonl.gz": gzip.compress(TEXT)})
    assert len(reading(content, "a.tar")[0]) == 300


def test_sessions_of_an_archive_behind_a_text(reading) -> None:
    files = {"README.md": b"# Sessions\n", "s/a.json": session("a"), "s/b.json": session("b")}
    for pack in (tarred, zipped):
        requests, trace = reading(pack(files), "sessions")
        assert len(requests) == 4
        assert "files not read: README.md" in trace.report.remarks()


def test_a_directory_of_sessions_is_read_to_its_leaves(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.json").write_bytes(session("c"))
    (tmp_path / "a.json").write_bytes(session("a"))
    (tmp_path / "deep" / "er" / "b.json.gz").write_bytes(gzip.compress(session("b")))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    trace = open_trace(tmp_path)
    assert sum(1 for _ in trace.requests()) == 4
    assert "files not read: .git, loop, notes.txt" in trace.report.remarks()


def test_the_one_trace_of_a_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(TEXT)
    (tmp_path / "LICENSE").write_text("CC BY")
    trace = open_trace(tmp_path)
    assert len(list(trace.requests())) == len(list(trace.requests())) == 300
    assert "files not read: LICENSE" in trace.report.remarks()
    (tmp_path / "b.jsonl").write_bytes(TEXT)
    with pytest.raises(DataError, match=r"a\.jsonl, b\.jsonl") as caught:
        open_trace(tmp_path)
    assert caught.value.hint == "name one of them"


def test_a_place_without_a_trace_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file in it"):
        open_trace(tmp_path)
    (tmp_path / "a.docx").write_text("hello")
    (tmp_path / "b.docx").write_text("hello")
    with pytest.raises(DataError, match=r"no trace among the files in it: a\.docx, b\.docx"):
        open_trace(tmp_path)


def test_places_with_files_without_end_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    files = {f"{number}.json": session(str(number)) for number in range(5)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "x.tar").write_bytes(tarred(files))
    (tmp_path / "x.zip").write_bytes(zipped(files))
    for place in (tmp_path, tmp_path / "x.tar", tmp_path / "x.zip"):
        with pytest.raises(DataError, match="more than 3 files"):
            list(open_trace(place).requests())


def test_populations_of_servegen_are_not_mixed(tmp_path: Path) -> None:
    for name in ("large", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "chunk-0-trace.csv").write_text("0,1.0,1.0,Gamma,1.0,1.0\n")
    with pytest.raises(DataError, match="several populations: large/, small/"):
        list(open_trace(tmp_path).requests())
