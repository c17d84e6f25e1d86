"""Finding specs by name: search path, aliases, ``extends``, and an error that suggests near names.

A spec's file is called after it (``models/<family>/<name>.yaml``), so that finding one by name reads one
file. Aliases are looked for in the text of the files and parsed only where the text contains them: no index
to keep up to date, and no catalogue loaded to size one model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from kvplan.errors import SpecError, UnknownName, shortened
from kvplan.resources import NAMED, named_specs, spec_path
from kvplan.specs.document import YamlDocument, parse_yaml, read_yaml, validate
from kvplan.specs.model import ModelSpec

if TYPE_CHECKING:
    from kvplan.specs.hardware import GpuSpec, LinkSpec

S = TypeVar("S", bound=BaseModel)

MAX_EXTENDS = 8
"""Longest chain of ``extends``."""

_KINDS = {"ModelSpec": "model", "GpuSpec": "gpu", "LinkSpec": "link"}
"""Shape -> kind, by name: sizing a model must not import what a GPU is."""

_ALIASES = re.compile(r"^aliases:[^\n]*(?:\n(?:[ \t-][^\n]*)?)*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a spec lies: its canonical name, which part of the search path it is from, and the file."""

    name: str
    origin: str
    path: Path

    @property
    def family(self) -> str:
        """The directory it lies in."""
        return self.path.parent.name

    def aliases(self) -> tuple[str, ...]:
        """Other names, read from the file's text without validating the rest."""
        return _aliases_in(self.path.read_text(encoding="utf-8", errors="replace"))


def load_model(name: str) -> ModelSpec:
    """The model called ``name``: canonical name, alias or Hugging Face id, in any case.

    Raises:
        UnknownName: no spec has that name; says which are near and where was searched.
        SpecError: the file is invalid (file:line and key path).
    """
    return load_entry(find("model", name), ModelSpec)


def load_gpu(name: str) -> GpuSpec:
    """The GPU called ``name``, in any spelling (``gpu_names``). Raises as ``load_model``."""
    from kvplan.specs.hardware import GpuSpec

    return load_entry(find("gpu", name), GpuSpec)


def load_link(name: str) -> LinkSpec:
    """The link called ``name``. Raises as ``load_model``."""
    from kvplan.specs.hardware import LinkSpec

    return load_entry(find("link", name), LinkSpec)


def entries(kind: str) -> list[Entry]:
    """Every spec of a kind (``model``, ``gpu``, ``link``) by name; the first on the search path wins."""
    found: dict[str, Entry] = {}
    for origin, root in spec_path():
        for path in _files(root / f"{kind}s"):
            found.setdefault(path.stem, Entry(path.stem, origin, path))
    return sorted(found.values(), key=lambda entry: entry.name)


def _files(directory: Path) -> Iterator[Path]:
    try:
        listing = sorted(os.scandir(directory), key=lambda item: item.name)
    except FileNotFoundError:
        return
    for item in listing:
        if item.is_dir():
            yield from _files(Path(item.path))
        elif item.name.endswith((".yaml", ".yml")):
            yield Path(item.path)


def find(kind: str, name: str) -> Entry:
    """The entry a name or alias means; of a Hugging Face id, the part behind the organisation will do.

    GPUs are also found by other spellings of their names.

    Raises:
        UnknownName: with near names and the places searched.
    """
    known = entries(kind)
    wanted = name.casefold()
    for entry in known:
        if entry.name == wanted:
            return entry
    bare = []
    for entry in known:
        text = entry.path.read_text(encoding="utf-8", errors="replace")
        if wanted in text.casefold():
            aliases = [alias.casefold() for alias in _aliases_in(text)]
            if wanted in aliases:
                return entry
            if any(alias.endswith(f"/{wanted}") for alias in aliases):
                bare.append(entry)
    if len(bare) == 1:
        return bare[0]
    if kind == "gpu" and (spelt := _gpu_spelt(name, known)) is not None:
        return spelt
    names = [n for entry in known for n in (entry.name, *entry.aliases())]
    raise UnknownName(kind, name, names, hint=_where_to_get(kind, name, known))


def _gpu_spelt(name: str, known: list[Entry]) -> Entry | None:
    """The GPU that is meant where no name is just that."""
    from kvplan.specs.gpu_names import meant
    from kvplan.specs.hardware import GpuSpec

    by_name = {entry.name: entry for entry in known}
    own = meant(
        name,
        {entry.name: (entry.name, *entry.aliases()) for entry in known},
        lambda own: round(load_entry(by_name[own], GpuSpec).memory_bytes / 1e9),
    )
    return None if own is None else by_name[own]


_SEVERAL = re.compile(r"\d{1,4}\s?[x*]\s?\S+|\S+[x*:]\d{1,4}", re.IGNORECASE)
"""How others write the GPUs of a node: 8xH100, h100x8, H100:8."""


def _where_to_get(kind: str, name: str, known: list[Entry]) -> str:
    counts: dict[str, int] = {}
    for entry in known:
        counts[entry.origin] = counts.get(entry.origin, 0) + 1
    found = [f"{origin} ({count})" for origin, count in counts.items()]
    # A place that somebody named and that holds none is the likely mistake: specs beside models/, not in it.
    found += [
        f"{NAMED} (none in {shortened(str(root / f'{kind}s'))})"
        for root in named_specs()
        if next(_files(root / f"{kind}s"), None) is None
    ]
    searched = ", ".join(found) or "nothing found"
    hint = f"searched: {searched}; "
    if kind == "link":
        # Links are few and have no command of their own.
        return hint + "known: " + ", ".join(entry.name for entry in known)
    hint += f"list them with: kvplan {kind}s list"
    if kind == "gpu":
        from kvplan.specs.instances import gpu_of_instance

        if (gpu := gpu_of_instance(name)) is not None:
            hint += f"; {name} is an instance with {gpu}: name that here"
    if kind == "gpu" and _SEVERAL.fullmatch(name):
        hint += "; name one GPU here, their number is --tp (and --gpus of kvplan fit)"
    if kind == "model" and "/" in name:
        hint += f"; or import it: kvplan models import {shortened(name)}"
    return hint


def _aliases_in(text: str) -> tuple[str, ...]:
    match = _ALIASES.search(text)
    if match is None:
        return ()
    try:
        value = parse_yaml(match.group(0), "aliases").data["aliases"]
    except (SpecError, KeyError):
        return ()  # the file is broken: loading it says how
    return tuple(str(alias) for alias in value) if isinstance(value, list) else ()


def load_entry(entry: Entry, shape: type[S]) -> S:
    """Read, merge with what it extends, validate; the name must be the file's."""
    document = resolve(read_yaml(entry.path), _KINDS[shape.__name__])
    spec = validate(document, shape)
    if spec.name != entry.name:  # type: ignore[attr-defined]
        raise SpecError(
            f"name {spec.name!r} differs from the file name",  # type: ignore[attr-defined]
            where=document.where(("name",)),
            hint=f"rename the file to {spec.name}.yaml or the spec to {entry.name}",  # type: ignore[attr-defined]
        )
    return spec


def load_file(path: Path, shape: type[S]) -> S:
    """A spec from a file anywhere, whatever it is called.

    Raises:
        SpecError: invalid; OSError: unreadable.
    """
    return validate(resolve(read_yaml(path), _KINDS[shape.__name__]), shape)


def load_text(text: str, path: str, shape: type[S]) -> S:
    """A spec from text; ``path`` is what errors call it."""
    return validate(resolve(parse_yaml(text, path), _KINDS[shape.__name__]), shape)


def resolve(document: YamlDocument, kind: str) -> YamlDocument:
    """Follow ``extends``: the named spec's fields with this document's on top; mappings merge."""
    chain = [document]
    while "extends" in chain[-1].data:
        parent = chain[-1].data["extends"]
        place = chain[-1].where(("extends",))
        if not isinstance(parent, str):
            raise SpecError("extends must name one spec", where=place)
        entry = find(kind, parent)
        if len(chain) > MAX_EXTENDS or any(str(entry.path) == link.path for link in chain):
            raise SpecError("extends leads in a circle", where=place)
        chain.append(read_yaml(entry.path))
    if len(chain) == 1:
        return document
    data: dict[str, Any] = {}
    for link in reversed(chain):
        own = {key: value for key, value in link.data.items() if key != "extends"}
        if link is not chain[-1]:
            data.pop("aliases", None)  # an alias names one spec; it is not inherited
        data = _merged(data, own)
    return YamlDocument(data, document.path, document.root)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    if "kind" in over and over["kind"] != base.get("kind"):
        return over  # another variant: its fields have nothing to do with the old one's
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
