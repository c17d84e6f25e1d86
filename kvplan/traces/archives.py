"""Several files in one place: a directory, a tar or a zip archive, walked file by file.

Nothing is unpacked to disk. Names are those inside, with ``/`` between their parts; compressed files are
decompressed and lose the ending that says so.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import EINVAL
from pathlib import Path
from typing import IO, Protocol, TypeAlias

from kvplan.errors import DataError
from kvplan.traces.compression import HEAD_BYTES, SUFFIXES, Damaged, peek, unpacked

MAX_FILES = 100_000
"""Most files of a directory or archive."""

MAX_DEPTH = 16
"""How deep directories are looked into."""

MAX_PREFACE_BYTES = 16 << 20
"""How much of a tar archive is held to find the first file that can be a trace."""

DATA_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv")

File: TypeAlias = tuple[str, IO[bytes] | None]
"""Its name, and its content, readable until the next file is asked for; ``None`` of what is no file."""


class Archive(Protocol):
    """Files by name and content.

    Attributes:
        names: of its files, as far as they are known beforehand.
        head: the first 64 KiB of the first file that can be a trace, decompressed.
    """

    names: list[str]
    head: bytes

    def files(self) -> Iterator[File]:
        """Every file, in the order of the archive (of a directory: by name)."""


def can_be_trace(name: str) -> bool:
    """Whether a file is called as data is; what the system or a tool has put there (``.DS_Store``) is not."""
    parts = name.split("/")
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return False
    return parts[-1].lower().endswith(DATA_SUFFIXES)


def plain_name(name: str) -> str:
    """A file's name without the ending of its compression."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def first_trace(names: list[str]) -> str | None:
    """The first file that can be a trace; the only file, whatever it is called."""
    found = next((name for name in names if can_be_trace(name)), None)
    return names[0] if found is None and len(names) == 1 else found


class Directory:
    """The files below a directory. Links to directories are not followed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = sorted(self._walk("", 0))
        if len(self._found) > MAX_FILES:
            raise DataError(f"more than {MAX_FILES:,} files in one directory", where=str(path))
        self.names = [plain_name(name) for name in self._found]
        self.head = b""
        if (first := first_trace(self.names)) is not None:
            with ExitStack() as stack:
                file = self._path / self._found[self.names.index(first)]
                if file.is_file():
                    self.head, _ = unpacked(
                        stack.enter_context(file.open("rb")), stack, name=str(file), path=file
                    )

    def _walk(self, below: str, depth: int) -> Iterator[str]:
        with os.scandir(self._path / below) as entries:
            for count, entry in enumerate(entries):
                name = f"{below}{entry.name}"
                if count > MAX_FILES:
                    yield name
                    return
                hidden = entry.name.startswith(".")
                if entry.is_dir(follow_symlinks=False) and not hidden and depth < MAX_DEPTH:
                    yield from self._walk(f"{name}/", depth + 1)
                else:
                    yield name

    def files(self) -> Iterator[File]:
        """Every file, by name; hidden and deeper directories, links to any, pipes and devices as ``None``."""
        for found, name in zip(self._found, self.names, strict=True):
            file = self._path / found
            if not file.is_file():
                yield found, None
                continue
            with ExitStack() as stack:
                raw = stack.enter_context(file.open("rb"))
                yield name, unpacked(raw, stack, name=str(file), path=file)[1]


class Tar:
    """A tar archive as a stream, which can be read once."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._name = name
        self.names: list[str] = []
        self.head = b""
        size = HEAD_BYTES
        while True:
            preface, stream = peek(stream, size)
            self._look(preface)
            found = self.head and any(can_be_trace(name) for name in self.names)
            if found or len(preface) < size or size >= MAX_PREFACE_BYTES:
                break
            size *= 16
        self._stream = stream

    def _look(self, preface: bytes) -> None:
        """Names and the head of the first trace, as far as a piece of the archive shows them."""
        import tarfile

        self.names = []
        pieces: list[bytes] = []
        try:
            with tarfile.open(fileobj=io.BytesIO(preface), mode="r:") as archive:
                while (entry := archive.next()) is not None:
                    if entry.isfile():
                        self.names.append(plain_name(_inside(entry.name)))
                        pieces.append(preface[entry.offset_data :][: min(entry.size, HEAD_BYTES)])
        except tarfile.TarError:
            pass  # the piece ends inside a file: what it showed is enough
        first = first_trace(self.names)
        if first is not None:
            with ExitStack() as stack:
                content = io.BytesIO(pieces[self.names.index(first)])
                try:
                    self.head, _ = unpacked(content, stack, name=self._name)
                except (EOFError, Damaged):
                    self.head = b""  # the piece ends inside it: a longer one shows more

    def files(self) -> Iterator[File]:
        """Every file in the order of the archive; links and devices as ``None``."""
        import tarfile

        with tarfile.open(fileobj=self._stream, mode="r|") as archive:
            for count, entry in enumerate(archive):
                if count >= MAX_FILES:
                    raise DataError(f"more than {MAX_FILES:,} files in one archive", where=self._name)
                name = _inside(entry.name)
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is not None:
                    with ExitStack() as stack:
                        yield plain_name(name), unpacked(content, stack, name=f"{self._name}/{name}")[1]
                elif not entry.isdir():
                    yield name, None


_ENCRYPTED = 1
_ZIP_METHODS = (0, 8)
"""Stored and deflated."""


@contextmanager
def _told_as_damage() -> Iterator[None]:
    """What the library raises of nonsense in the tables of a zip: versions, names, places in the file."""
    try:
        yield
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise Damaged(str(error)) from error
    except OSError as error:
        if error.errno != EINVAL:
            raise
        raise Damaged("a place before the start of the file") from error


class Zip:
    """A zip archive: stored or deflated, as the standard library reads it."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        import zipfile

        self._name = name
        with _told_as_damage():
            self._zip = zipfile.ZipFile(stream)
        self._found = [entry for entry in self._zip.infolist() if not entry.is_dir()]
        if len(self._found) > MAX_FILES:
            raise DataError(f"more than {MAX_FILES:,} files in one archive", where=name)
        self.names = [plain_name(_inside(entry.filename)) for entry in self._found]
        self.head = b""
        if (first := first_trace(self.names)) is not None:
            with ExitStack() as stack:
                self.head, _ = self._open(self.names.index(first), stack)

    def _open(self, number: int, stack: ExitStack) -> tuple[bytes, IO[bytes]]:
        entry = self._found[number]
        where = f"{self._name}/{_inside(entry.filename)}"
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _ZIP_METHODS:
            what = "encrypted" if entry.flag_bits & _ENCRYPTED else "compressed in an unusual way"
            raise DataError(
                f"this file of the archive is {what}", where=where, hint="unpack the archive first"
            )
        with _told_as_damage():
            raw = stack.enter_context(self._zip.open(entry))
        return unpacked(raw, stack, name=where)

    def files(self) -> Iterator[File]:
        """Every file in the order of the archive's directory."""
        for number, name in enumerate(self.names):
            with ExitStack() as stack:
                yield name, self._open(number, stack)[1]


def is_tar(head: bytes) -> bool:
    """Whether content begins with the header of a tar archive: by its magic, or (older tars) its checksum."""
    header = head[:512]
    if len(header) < 512 or not header.strip(b"\0"):
        return False
    if header[257:262] == b"ustar":
        return True
    digits = header[148:156].strip(b" \0")
    if not digits or not digits.isdigit() or b"8" in digits or b"9" in digits:
        return False
    return int(digits, 8) == sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")


def is_zip(head: bytes) -> bool:
    """Whether content begins as a zip archive does."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def _inside(name: str) -> str:
    return name.removeprefix("./")
