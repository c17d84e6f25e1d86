"""Unpacking what compressed files hold, as streams: gzip, zstd, bzip2 and xz, told by their first bytes.

The modules of the standard library that unpack are imported where they are needed: a plain file, the usual
case, needs none.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO, Any, cast

from kvplan.errors import DataError, EnvironmentLacks

HEAD_BYTES = 1 << 16
_BUFFER = 1 << 18

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BZIP2 = b"BZh"
_XZ = b"\xfd7zXZ\0"

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""Endings of the names of compressed files."""

MAX_XZ_BYTES = 256 << 20
"""Memory an xz file may ask for; ``xz -9`` asks for 65 MiB, and a crafted file for 4 GiB."""


class Damaged(Exception):
    """Compressed data that does not decompress."""


def peek(stream: IO[bytes], size: int = HEAD_BYTES) -> tuple[bytes, IO[bytes]]:
    """The first ``size`` bytes, and the stream as if nothing had been taken from it."""
    pieces, missing = [], size
    while missing and (piece := stream.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    head = b"".join(pieces)
    return head, cast(IO[bytes], io.BufferedReader(_Replay(head, stream), _BUFFER))


def unpacked(
    raw: IO[bytes], stack: ExitStack, *, name: str, path: Path | None = None
) -> tuple[bytes, IO[bytes]]:
    """The first 64 KiB of what ``raw`` holds, decompressed if it is compressed, and the stream of all of it.

    Args:
        stack: closes what is opened here.
        name: for errors.
        path: the file that ``raw`` was opened from, where it can be opened again.

    Raises:
        EnvironmentLacks: zstd, and nothing here that reads it.
    """
    head, stream = peek(raw)
    if head.startswith(_GZIP):
        import gzip

        return peek(cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=stream))))
    if head.startswith(_ZSTD):
        return peek(_zstd(stream, stack, name, path))
    if head.startswith(_BZIP2) and head[4:10] == b"1AY&SY":
        import bz2

        return peek(cast(IO[bytes], io.BufferedReader(_Unpacker(stream, bz2.BZ2Decompressor), _BUFFER)))
    if head.startswith(_XZ):
        from lzma import FORMAT_XZ, LZMADecompressor

        unpacker = _Unpacker(stream, lambda: LZMADecompressor(FORMAT_XZ, MAX_XZ_BYTES))
        return peek(cast(IO[bytes], io.BufferedReader(unpacker, _BUFFER)))
    return head, stream


class Telling(AbstractContextManager[None]):
    """Turns the exceptions of damaged compression into an error with a place."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __exit__(self, kind: Any, exc: BaseException | None, trace: Any) -> None:
        if exc is not None and isinstance(exc, _faults()):
            raise DataError(
                f"compressed data is damaged or cut short ({exc})",
                where=self.name,
                hint="download or compress the file again",
            ) from exc


def _faults() -> tuple[type[Exception], ...]:
    import gzip
    import tarfile
    import zipfile
    import zlib

    return (gzip.BadGzipFile, zlib.error, EOFError, tarfile.TarError, zipfile.BadZipFile, Damaged)


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


class _Unpacker(io.RawIOBase):
    """What a stream of bzip2 or xz holds; several compressed streams in a row are one.

    ``bz2.open`` and ``lzma.open`` know no bound on memory and raise what a failing disk raises too.
    """

    def __init__(self, packed: IO[bytes], decoder: Callable[[], Any]) -> None:
        self._packed = packed
        self._begin = decoder
        self._decoder = decoder()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            fresh = b""
            if self._decoder.eof:
                # xz may put zeros between its streams, in fours.
                fresh = self._decoder.unused_data.lstrip(b"\0") or self._packed.read(_BUFFER).lstrip(b"\0")
                if not fresh:
                    return 0
                self._decoder = self._begin()
            elif self._decoder.needs_input:
                fresh = self._packed.read(_BUFFER)
                if not fresh:
                    raise Damaged("it ends in the middle")
            piece = self._decode(fresh, len(buffer))
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)

    def _decode(self, fresh: bytes, size: int) -> bytes:
        from lzma import LZMAError

        try:
            return cast(bytes, self._decoder.decompress(fresh, size))
        except (OSError, LZMAError, ValueError) as error:
            raise Damaged(str(error)) from error


def _zstd(stream: IO[bytes], stack: ExitStack, name: str, path: Path | None) -> IO[bytes]:
    try:
        from compression.zstd import ZstdFile  # type: ignore[import-not-found,unused-ignore]  # Python 3.14

        return cast(IO[bytes], stack.enter_context(ZstdFile(stream)))
    except ImportError:
        pass
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]

        return cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(stream))
    except ImportError:
        pass
    import shutil

    tool = shutil.which("zstd")
    if tool is None or path is None:
        raise EnvironmentLacks(
            "this file is zstd-compressed and nothing here reads zstd",
            where=name,
            hint="install the `zstd` program or `pip install zstandard`, or decompress the file first",
        )
    unpacker = _ZstdProgram(tool, path)
    stack.callback(unpacker.close)
    return cast(IO[bytes], unpacker)


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
