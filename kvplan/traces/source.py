"""Where a trace's bytes come from: a file, a pipe, a compressed file, a directory or an archive.

Everything is a stream with a bounded line length; nothing is unpacked to disk.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO

from kvplan.errors import DataError
from kvplan.traces.archives import Archive, Directory, Tar, Zip, can_be_trace, first_trace, is_tar, is_zip
from kvplan.traces.compression import Telling, unpacked
from kvplan.traces.encodings import SINGLE_BYTES, Recoding, as_utf8

MAX_LINE_BYTES = 64 << 20
MAX_DOCUMENT_BYTES = 256 << 20
_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 64 << 10
_NAMED = 5
"""How many files a message names."""


def read_once(path: str | Path) -> bool:
    """Whether what a path names can be read only once: standard input, a pipe, a device."""
    place = Path(path)
    return str(path) == "-" or (place.exists() and not place.is_file() and not place.is_dir())


class Source(AbstractContextManager["Source"]):
    """One opened trace. Read it once, by ``lines()``, ``document()`` or ``members()``.

    Attributes:
        name: the path as given, or ``<stdin>``.
        head: the first 64 KiB after decompression (of the first file that can be a trace, for a directory or
            archive), for recognising the format.
        members_seen: names of a directory's or zip's files, or of those the beginning of a tar shows.
        left_out: names of the files that were passed over, once everything is read.
        notes: what was done to get at the rows.
        recoding: which lines were not UTF-8, once they are read.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = "<stdin>" if str(path) == "-" else str(path)
        self.path = None if read_once(path) else Path(path)
        self.head = b""
        self.left_out: list[str] = []
        self.notes: list[str] = []
        self.recoding = Recoding()
        self._rows: Iterator[bytes] | None = None
        self._stack = ExitStack()
        self._archive: Archive | None = None
        self._stream: IO[bytes] | None = None
        try:
            with Telling(self.name):
                if self.path is not None and self.path.is_dir():
                    self._archive = Directory(self.path)
                else:
                    self._open(path)
        except BaseException:
            self.close()
            raise
        if self._archive is not None:
            self.head = self._archive.head
        self.head = b"\n".join(map(as_utf8, self.head.removeprefix(_BOM).split(b"\n")))

    @property
    def archive(self) -> bool:
        """Whether there may be several files."""
        return self._archive is not None

    @property
    def members_seen(self) -> list[str]:
        return [] if self._archive is None else self._archive.names

    def _open(self, path: str | Path) -> None:
        if str(path) == "-":
            raw: IO[bytes] = sys.stdin.buffer
        else:
            try:
                place = Path(path)
                raw = self._stack.enter_context(place.open("rb"))
            except FileNotFoundError:
                start = None if place.is_absolute() else f"names start at the current directory, {Path.cwd()}"
                raise DataError("no such trace file", where=self.name, hint=start) from None
        head, stream = unpacked(raw, self._stack, name=self.name, path=self.path)
        if is_tar(head):
            self._archive = Tar(stream, self.name)
        elif is_zip(head):
            # Its table of contents is at the end: a file is sought in, a pipe is read whole.
            whole: IO[bytes] | None = self._stack.enter_context(self.path.open("rb")) if self.path else None
            if whole is None or not is_zip(whole.read(4)):
                whole = io.BytesIO(_bounded(stream, self.name))
            self._archive = Zip(whole, self.name)
        else:
            self.head, self._stream = head, stream

    def unwrap(self, unwrapping: Callable[[bytes, str, list[str]], Iterator[bytes]]) -> None:
        """From here on ``head`` and ``lines()`` are of the rows in the document, one JSON object a line.

        Raises:
            DataError: the document holds no rows, or cannot be read.
        """
        content = self.document()
        text = as_utf8(content)
        if text is not content:
            self.notes.append(SINGLE_BYTES)
        rows = unwrapping(text, self.name, self.notes)
        first, size = [], 0
        for row in rows:
            first.append(row + b"\n")
            size += len(row)
            if size >= _HEAD_BYTES:
                break
        self.head = b"".join(first)
        self._rows = chain(first, (row + b"\n" for row in rows))

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """``(line number from 1, line with its end)`` for every line that is not blank.

        Of an unwrapped document it is the number of the row.

        Raises:
            DataError: a line over 64 MiB, damaged compression, or an archive of several traces.
        """
        if self._rows is not None:
            yield from enumerate(self._rows, start=1)
            return
        recoded = self.recoding.line
        with Telling(self.name):
            for stream in self._only():
                for number, line in enumerate(iter(partial(stream.readline, MAX_LINE_BYTES), b""), start=1):
                    if len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n"):
                        raise self._endless(number)
                    if not line.isspace():
                        yield number, recoded(number, line if number > 1 else line.removeprefix(_BOM))

    def _endless(self, number: int) -> DataError:
        return DataError(
            f"line is longer than {MAX_LINE_BYTES >> 20} MiB",
            where=f"{self.name}:{number}",
            hint="a trace has one request a line; is this one JSON document, or another format?",
        )

    def document(self) -> bytes:
        """The whole content, at most 256 MiB."""
        content = b""
        with Telling(self.name):
            for stream in self._only():
                content = _bounded(stream, self.name).removeprefix(_BOM)
        return content

    def members(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """``(name, content)`` of each file of a directory or archive whose name is ``wanted``.

        The others are ``left_out``.

        Raises:
            DataError: it is one file; or damaged.
        """
        if self._archive is None:
            raise DataError(
                "one file, and this format is a directory or archive of several", where=self.name,
                hint="name the directory, or an archive of it",
            )  # fmt: skip
        with Telling(self.name):
            for name, stream in self._archive.files():
                if stream is not None and wanted(name):
                    yield name, _bounded(stream, f"{self.name}/{name}").removeprefix(_BOM)
                else:
                    self.left_out.append(name)

    def check_only(self) -> None:
        """Refuse an archive that is seen to hold several traces, for a format that is read from one file.

        Raises:
            DataError: naming them.
        """
        if (several := [name for name in self.members_seen if can_be_trace(name)])[1:]:
            raise self._several(several)

    def _only(self) -> Iterator[IO[bytes]]:
        """The stream of the file; of an archive, that of its only trace."""
        if self._archive is None:
            assert self._stream is not None
            yield self._stream
            return
        chosen = first_trace(self._archive.names)
        seen = False
        for name, stream in self._archive.files():
            if stream is not None and name == chosen and not seen:
                seen = True
                yield stream
            elif stream is not None and can_be_trace(name):
                raise self._several([chosen or name, name])
            else:
                self.left_out.append(name)

    def _several(self, names: list[str]) -> DataError:
        hint = "name one of them" if self.path and self.path.is_dir() else "unpack it and name one of them"
        return DataError(f"there are several traces in it: {listed(names)}", where=self.name, hint=hint)

    def close(self) -> None:
        self._stack.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


def listed(names: list[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _bounded(stream: IO[bytes], name: str) -> bytes:
    content = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise DataError(f"document is larger than {MAX_DOCUMENT_BYTES >> 20} MiB", where=name)
    return content
