"""What a result was made from: versions, seed, inputs by content, the command.

Nothing here depends on the wall clock or the host, so that equal inputs give byte-identical results.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

_CHUNK = 1 << 20
_VERSION = re.compile(r"^Version: *(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file that was read: path as given, size in bytes, SHA-256 of its content."""

    path: str
    bytes: int
    sha256: str


def input_file(path: str | Path) -> InputFile:
    """Describe a file by content.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return InputFile(path=str(path), bytes=size, sha256=digest.hexdigest())


def versions(names: Iterable[str] = ("kvplan", "numpy", "pandas", "pydantic")) -> dict[str, str]:
    """Installed versions of the named distributions, plus the Python version."""
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            # Asked for its version, ``metadata`` parses the whole document as an e-mail.
            text = metadata.distribution(name).read_text("METADATA") or ""
        except metadata.PackageNotFoundError:
            continue
        line = _VERSION.search(text)
        found[name] = metadata.version(name) if line is None else line[1]
    return found


def provenance(command: Sequence[str], seed: int, inputs: Iterable[InputFile]) -> dict[str, object]:
    """The ``provenance`` object of every JSON document kvplan writes."""
    return {
        "command": shlex.join(command),
        "seed": seed,
        "inputs": [asdict(item) for item in inputs],
        "versions": versions(),
    }
