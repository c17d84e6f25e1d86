"""Where a trace's bytes come from: a file, standard input, gzip or zstd, a directory or an archive.

Everything is a stream with a bounded line length; nothing is unpacked to disk. The modules of the standard
library that unpack are imported where they are needed: a plain file, the usual case, needs none.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from kvplan.errors import DataError, EnvironmentLacks

HEAD_BYTES = 1 << 16
MAX_LINE_BYTES = 64 << 20
MAX_DOCUMENT_BYTES = 256 << 20
_BUFFER = 1 << 18

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"


class Source(AbstractContextManager["Source"]):
    """One opened trace. Read it once, by ``lines()``, ``document()`` or ``members()``.

    Attributes:
        name: the path as given, or ``<stdin>``.
        head: the first 64 KiB after decompression (of the first file, for a directory or archive), for
            recognising the format.
        members_seen: names of a directory's files, or of those an archive's first 64 KiB show.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = "<stdin>" if str(path) == "-" else str(path)
        self.path = None if str(path) == "-" else Path(path)
        self.head = b""
        self.members_seen: list[str] = []
        self._stack = ExitStack()
        self._directory = self.path is not None and self.path.is_dir()
        self._tar = False
        self._stream: IO[bytes] | None = None
        try:
            if self._directory:
                self._look_into_directory()
            else:
                with self._telling():
                    self._open()
        except BaseException:
            self.close()
            raise

    @property
    def archive(self) -> bool:
        return self._directory or self._tar

    def _open(self) -> None:
        raw: IO[bytes]
        if self.path is None:
            raw = sys.stdin.buffer
        else:
            try:
                raw = self._stack.enter_context(self.path.open("rb"))
            except FileNotFoundError:
                raise DataError("no such trace file", where=self.name) from None
        head, stream = _peek(raw)
        if head.startswith(_GZIP):
            import gzip

            unpacked = self._stack.enter_context(gzip.GzipFile(fileobj=stream))
            head, stream = _peek(cast(IO[bytes], unpacked))
        elif head.startswith(_ZSTD):
            head, stream = _peek(self._zstd(stream))
        self._tar = head[257:262] == b"ustar"
        self._stream = stream
        if self._tar:
            self._look_into_archive(head)
        else:
            self.head = head.removeprefix(_BOM)

    def _look_into_directory(self) -> None:
        assert self.path is not None
        self.members_seen = sorted(file.name for file in self.path.iterdir() if file.is_file())
        for name in self.members_seen:
            if name.endswith((".json", ".jsonl")):
                with (self.path / name).open("rb") as opened:
                    self.head = opened.read(HEAD_BYTES).removeprefix(_BOM)
                return

    def _look_into_archive(self, head: bytes) -> None:
        import tarfile

        try:
            with tarfile.open(fileobj=io.BytesIO(head), mode="r:") as archive:
                while (entry := archive.next()) is not None:
                    if entry.isfile():
                        self.members_seen.append(entry.name.rsplit("/", 1)[-1])
                        self.head = self.head or head[entry.offset_data :][: entry.size]
        except tarfile.TarError:
            return  # the head ends inside a member: what it showed is enough

    def _zstd(self, stream: IO[bytes]) -> IO[bytes]:
        try:
            from compression.zstd import ZstdFile  # type: ignore[import-not-found,unused-ignore]  # Python 3.14

            return cast(IO[bytes], self._stack.enter_context(ZstdFile(stream)))
        except ImportError:
            pass
        try:
            import zstandard  # type: ignore[import-not-found,unused-ignore]

            return cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(stream))
        except ImportError:
            pass
        import shutil

        tool = shutil.which("zstd")
        if tool is None or self.path is None:
            raise EnvironmentLacks(
                "this trace is zstd-compressed and nothing here reads zstd",
                where=self.name,
                hint="install the `zstd` program or `pip install zstandard`, or decompress the file first",
            )
        unpacker = _ZstdProgram(tool, self.path)
        self._stack.callback(unpacker.close)
        return cast(IO[bytes], unpacker)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """``(line number from 1, line with its end)`` for every line that is not blank.

        Raises:
            DataError: a line over 64 MiB, or damaged compression.
        """
        stream = self._readable()
        with self._telling():
            for number, line in enumerate(iter(partial(stream.readline, MAX_LINE_BYTES), b""), start=1):
                if len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n"):
                    raise DataError(
                        f"line is longer than {MAX_LINE_BYTES >> 20} MiB",
                        where=f"{self.name}:{number}",
                        hint="a trace has one request a line; is this one JSON document, or another format?",
                    )
                if not line.isspace():
                    yield number, line if number > 1 else line.removeprefix(_BOM)

    def document(self) -> bytes:
        """The whole content, at most 256 MiB."""
        with self._telling():
            return _bounded(self._readable(), self.name).removeprefix(_BOM)

    def members(self) -> Iterator[tuple[str, bytes]]:
        """``(name, content)`` of each regular file of a directory (by name) or archive (in its order)."""
        if self._directory:
            assert self.path is not None
            for file in sorted(self.path.iterdir()):
                if file.is_file():
                    with file.open("rb") as opened:
                        yield file.name, _bounded(opened, str(file)).removeprefix(_BOM)
            return
        import tarfile

        with self._telling(), tarfile.open(fileobj=self._readable(), mode="r|") as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is not None:
                    name = f"{self.name}/{entry.name.removeprefix('./')}"
                    yield name.rsplit("/", 1)[-1], _bounded(content, name).removeprefix(_BOM)

    def close(self) -> None:
        self._stack.close()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _readable(self) -> IO[bytes]:
        if self._stream is None:
            raise DataError("is a directory, not a trace file", where=self.name)
        return self._stream

    def _telling(self) -> _Telling:
        return _Telling(self.name)


class _Telling(AbstractContextManager[None]):
    """Turns the exceptions of damaged compression into an error with a place."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __exit__(self, kind: Any, exc: BaseException | None, trace: Any) -> None:
        if exc is not None and isinstance(exc, _stream_faults()):
            raise DataError(
                f"compressed data is damaged or cut short ({exc})",
                where=self.name,
                hint="download or compress the file again",
            ) from exc


def _stream_faults() -> tuple[type[Exception], ...]:
    import gzip
    import tarfile
    import zlib

    return (gzip.BadGzipFile, zlib.error, EOFError, tarfile.TarError)


class _Replay(io.RawIOBase):
    """The bytes already taken from a stream, then the rest of it."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        piece: bytes | memoryview
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
        else:
            piece = self._rest.read(size)
        buffer[: len(piece)] = piece
        return len(piece)


def _peek(stream: IO[bytes]) -> tuple[bytes, IO[bytes]]:
    pieces, missing = [], HEAD_BYTES
    while missing and (piece := stream.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    head = b"".join(pieces)
    return head, cast(IO[bytes], io.BufferedReader(_Replay(head, stream), _BUFFER))


def _bounded(stream: IO[bytes], name: str) -> bytes:
    content = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise DataError(f"document is larger than {MAX_DOCUMENT_BYTES >> 20} MiB", where=name)
    return content


class _ZstdProgram(io.RawIOBase):
    """The output of ``zstd -dc FILE``; its failure is an error, never a shorter trace."""

    def __init__(self, tool: str, path: Path) -> None:
        import subprocess

        self._process = subprocess.Popen(
            [tool, "-dcq", "--", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        assert self._process.stdout is not None
        piece = self._process.stdout.read(len(buffer))
        if not piece and self._process.wait() != 0:
            raise EOFError("zstd cannot decompress it")
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process.kill()
            self._process.wait()
        super().close()
