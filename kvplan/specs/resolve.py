"""From what a user types to a model: a name, an alias, a spec file, a config.json, its directory, ``-``."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from kvplan.errors import SpecError
from kvplan.specs.bounded import STDIN, read_bounded, read_standard_input
from kvplan.specs.catalog import find, load_entry, load_file, load_text
from kvplan.specs.json_document import MAX_JSON_BYTES, parse_json
from kvplan.specs.model import ModelSpec


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model, where it came from in words, and what reading it left to say."""

    model: ModelSpec
    origin: str
    warnings: tuple[str, ...] = ()


def resolve_model(text: str) -> Resolved:
    """The model a name or path means.

    A file wins over a name, and so does a directory that holds a ``config.json`` or is written as a path;
    ``-`` is a config.json or a spec on standard input.

    Raises:
        UnknownName: neither a file nor a known name; SpecError: the file is invalid; OSError: unreadable.
    """
    if text == "-":
        return _from_text(read_standard_input(MAX_JSON_BYTES, "a model's description"), STDIN)
    path = Path(text)
    if _too_long(path):
        find("model", text)
    if path.suffix.lower() in (".json", ".yaml", ".yml"):
        return _from_path(path)
    if text and path.exists() and not path.is_dir():  # also a pipe: kvplan size <(command)
        return _from_text(read_bounded(path, MAX_JSON_BYTES, "a model's description"), str(path))
    if text and path.is_dir() and ((path / "config.json").is_file() or os.sep in text or text in (".", "..")):
        return _from_path(path)
    entry = find("model", text)
    return Resolved(
        load_entry(entry, ModelSpec), f"{entry.origin}: {entry.path.parent.name}/{entry.path.name}"
    )


def _too_long(path: Path) -> bool:
    """Whether no file can be called so."""
    try:
        path.lstat()
    except OSError as exc:
        return exc.errno == errno.ENAMETOOLONG
    except ValueError:  # a character that no file name has
        return True
    return False


def _from_path(path: Path) -> Resolved:
    if path.is_dir():
        config = path / "config.json"
        if not config.is_file():
            raise SpecError("this directory has no config.json", where=str(path))
        path = config
    if path.suffix.lower() in (".yaml", ".yml"):
        return Resolved(load_file(path, ModelSpec), str(path))
    text = read_bounded(path, MAX_JSON_BYTES, "a JSON file")
    if _SPEC in text:
        return Resolved(load_text(text, str(path), ModelSpec), str(path))
    from kvplan.specs.huggingface import read_config

    found = read_config(path)
    return Resolved(found.model, str(path), found.warnings)


_SPEC = '"kvplan.model/'
"""What JSON says that ``kvplan models show --format json`` printed, and no configuration does."""


def _from_text(text: str, where: str) -> Resolved:
    """JSON is a Hugging Face configuration, unless a spec was printed as JSON; all else is a spec."""
    if not text.lstrip().startswith("{") or _SPEC in text:
        return Resolved(load_text(text, where, ModelSpec), where)
    from kvplan.specs.huggingface.reader import import_config, slug

    name = "stdin" if where == STDIN else slug(Path(where).name)
    found = import_config(parse_json(text, where), where, name=name)
    return Resolved(found.model, where, found.warnings)
