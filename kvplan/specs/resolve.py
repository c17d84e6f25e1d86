"""From what a user types to a model: a name, an alias, a spec file, a config.json or its directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kvplan.errors import SpecError
from kvplan.specs.catalog import find, load_entry, load_file
from kvplan.specs.model import ModelSpec


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model, where it came from in words, and what reading it left to say."""

    model: ModelSpec
    origin: str
    warnings: tuple[str, ...] = ()


def resolve_model(text: str) -> Resolved:
    """The model a name or path means.

    A file wins over a name, and so does a directory that holds a ``config.json`` or is written as a path.

    Raises:
        UnknownName: neither a file nor a known name; SpecError: the file is invalid; OSError: unreadable.
    """
    path = Path(text)
    if path.suffix.lower() in (".json", ".yaml", ".yml") or path.is_file():
        return _from_path(path)
    if path.is_dir() and ((path / "config.json").is_file() or os.sep in text or text in (".", "..")):
        return _from_path(path)
    entry = find("model", text)
    return Resolved(
        load_entry(entry, ModelSpec), f"{entry.origin}: {entry.path.parent.name}/{entry.path.name}"
    )


def _from_path(path: Path) -> Resolved:
    if path.is_dir():
        config = path / "config.json"
        if not config.is_file():
            raise SpecError("this directory has no config.json", where=str(path))
        path = config
    if path.suffix.lower() in (".yaml", ".yml"):
        return Resolved(load_file(path, ModelSpec), str(path))
    from kvplan.specs.huggingface import read_config

    found = read_config(path)
    return Resolved(found.model, str(path), found.warnings)
