"""Files a command writes: refused before the work starts, whole or not at all, never over what it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kvplan.errors import DataError, UsageError

STANDARD = "-"
"""Standard input or output, wherever a file may be named."""


@contextmanager
def written(target: str | Path) -> Iterator[IO[str]]:
    """A UTF-8 stream to a file that appears whole when the block ends, or not at all.

    A link is followed and stays one. What is no regular file (a device, a pipe) is written directly: a file
    put in its place would be no device any more.

    Raises:
        OSError: it cannot be written; ``filename`` is the target as given, not a draft's.
    """
    place = Path(os.path.realpath(target))
    try:
        if place.exists() and not place.is_file():
            with open(place, "w", encoding="utf-8", newline="\n") as stream:
                yield stream
            return
        draft = _draft(place)
        try:
            with open(draft, "w", encoding="utf-8", newline="\n") as stream:
                yield stream
            if place.exists():
                os.chmod(draft, place.stat().st_mode & 0o7777)
            os.replace(draft, place)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
    except OSError as exc:
        if exc.filename is None or Path(exc.filename).parent == place.parent:
            exc.filename, exc.filename2 = str(target), None
        raise


def read_by(scenario: str | None, resolved: Iterable[object]) -> dict[str, str | None]:
    """Files that simulations read, for ``check_outputs``: the scenario, and what its forms name."""
    from kvplan.scenario.schema import Scenario

    named = (item.sources().items() for item in resolved if isinstance(item, Scenario))
    files = {name: what for pairs in named for what, name in pairs if os.path.isfile(name)}
    several = len(set(files.values())) < len(files)
    return {"the scenario": scenario} | {
        f"{what} {name}" if several else what: name for name, what in files.items()
    }


def check_outputs(outputs: Mapping[str, str | None], inputs: Mapping[str, str | None]) -> str | None:
    """Refuse what cannot be written before hours are spent on what to write.

    Args:
        outputs: what a file is for (``"-o"``) to its name; ``None`` is left out, ``-`` is standard output.
        inputs: what a file is (``"the trace"``) to its name.

    Returns:
        which of ``outputs`` is standard output, if any.

    Raises:
        UsageError: two outputs in one place, or an output that would destroy an input.
        DataError: a directory that is missing or cannot be written to.
    """
    standard: str | None = None
    taken = {_identity(name): what for what, name in inputs.items() if name not in (None, "", STANDARD)}
    for option, name in outputs.items():
        if name is None:
            continue
        if name == STANDARD:
            if standard is not None:
                raise UsageError(
                    f"{standard} and {option} cannot both be standard output", hint="name a file for one"
                )
            standard = option
            continue
        place = _check_place(option, name)
        if place is None:
            continue
        other = taken.setdefault(_identity(name), option)
        if other != option:
            fate = "would overwrite each other in" if other in outputs else "would overwrite"
            raise UsageError(
                f"{option} and {other} {fate} {name}" if other in outputs else f"{option} {fate} {other}",
                where=name,
                hint="name another file",
            )
    return standard


def _check_place(option: str, name: str) -> Path | None:
    """The file behind a name, if it is or would be a regular one."""
    if not name:
        raise UsageError(f"{option} names no file", hint="give a file name, or - for standard output")
    place = Path(os.path.realpath(name))
    if place.is_dir() or name.endswith(os.sep):
        raise DataError(f"{option} needs a file, this is a directory", where=name)
    if place.exists() and not place.is_file():
        return None
    if not place.parent.is_dir():
        raise DataError(
            f"{option}: there is no directory {str(Path(name).parent)!r}", where=name, hint="make it first"
        )
    if not os.access(place.parent, os.W_OK):
        raise DataError(f"{option}: nothing can be written to this directory", where=name)
    try:
        _try(place)
    except OSError as exc:
        raise DataError(f"{option} cannot be written here: {exc.strerror}", where=name) from exc
    return place


def _draft(place: Path) -> Path:
    """What a file is called until it is whole."""
    return place.with_name(f".kvplan-{os.getpid()}.tmp")


def _try(place: Path) -> None:
    """Make a file beside ``place`` and remove it: permissions promise more than some file systems keep.

    Raises:
        OSError: none can be made.
    """
    draft = _draft(place)
    with open(draft, "wb"):
        pass
    draft.unlink()


def _identity(name: str | None) -> object:
    """Equal for two names of one file: links, hard links and ``./`` included."""
    try:
        found = os.stat(str(name))
    except OSError:
        return os.path.realpath(str(name))
    return (found.st_dev, found.st_ino)
