"""Reading YAML and JSON from outside: bounded, safe, and every complaint with its file, line and key path.

A YAML document keeps its node tree, so that a validation error found later can name the line. Anchors and
duplicate keys are refused: the first let a small file grow without bound, the second hide a value. Nesting is
measured before a tree is built, because building one recurses on the C stack.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kvplan.errors import KvplanError, SpecError, UsageError, near_names
from kvplan.specs.bounded import read_bounded
from kvplan.specs.fields import fields_at, places_of
from kvplan.specs.json_document import kind_name

MAX_YAML_BYTES = 2 << 20
MAX_DEPTH = 64
"""Deepest nesting read; specs and scenarios need a handful of levels."""


SAFE_DEPTH = 1000
"""Nesting that a tree can be built of without measuring it first."""

MAX_SHOWN_ERRORS = 8
MAX_SHOWN_VALUE = 60

M = TypeVar("M", bound=BaseModel)
Node = Any
"""A node of PyYAML, which is imported only once there is YAML to read (its stubs do not know ``id``)."""
Key = str | int


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed YAML mapping: ``data``, the file it came from, and the nodes that remember their lines.

    ``given`` says which command-line option set a key path; an error there is one of usage. The empty path
    stands for everything, where there is no file.
    """

    data: dict[str, Any]
    path: str
    root: Node | None
    given: Mapping[tuple[Key, ...], str] = field(default_factory=dict)

    def option(self, keys: tuple[Key, ...]) -> str | None:
        """The option that gave the value at ``keys``, one around it, or one in it where the file has none."""
        shown = self._present(keys)
        around = next(
            (self.given[shown[:n]] for n in range(len(shown), -1, -1) if shown[:n] in self.given), None
        )
        if around is not None or self._in_file(shown):
            return around
        return next((option for key, option in self.given.items() if key[: len(shown)] == shown), None)

    def _in_file(self, keys: tuple[Key, ...]) -> bool:
        node = self.root
        for key in keys:
            step = _child(node, key)
            if step is None:
                return False
            node = step[1]
        return True

    def line(self, keys: tuple[Key, ...]) -> int | None:
        """1-based line of the key (or of the nearest enclosing one that exists in the file)."""
        node, line = self.root, None
        for key in keys:
            step = _child(node, key)
            if step is None:
                continue  # e.g. the tag of a union, which pydantic adds to the path
            mark, node = step
            line = mark.start_mark.line + 1
        return line

    def where(self, keys: tuple[Key, ...] = ()) -> str:
        """``file:line  key.path`` for an error message."""
        line = self.line(keys)
        place = self.option(keys) or (self.path if line is None else f"{self.path}:{line}")
        shown = self.written(keys)
        return f"{place}  {shown}" if shown else place

    def written(self, keys: tuple[Key, ...]) -> str:
        """The dotted path of ``keys`` as it is in the file, union tags left out."""
        return key_path(self._present(keys))

    def holds(self, keys: tuple[Key, ...]) -> bool:
        """Whether there is a value at ``keys``, union tags left out."""
        node: Any = self.data
        found = None
        for key in keys:
            found = _value(node, key)
            if found is not None:
                node = found[0]
        return found is not None or not isinstance(node, (dict, list))

    def _present(self, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        """The path without union tags: keys that exist, plus a last one that may be missing."""
        node: Any = self.data
        kept: list[Key] = []
        for index, key in enumerate(keys):
            found = _value(node, key)
            if found is not None:
                node = found[0]
                kept.append(key)
            elif index == len(keys) - 1 and isinstance(node, dict):
                kept.append(key)
        return tuple(kept)


def _value(node: Any, key: Key) -> tuple[Any] | None:
    if isinstance(node, dict) and key in node:
        return (node[key],)
    if isinstance(node, list) and isinstance(key, int) and key < len(node):
        return (node[key],)
    return None


def _child(node: Node | None, key: Key) -> tuple[Node, Node] | None:
    if node is not None and node.id == "mapping":
        for name, value in node.value:
            if name.value == str(key):
                return name, value
    if node is not None and node.id == "sequence" and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key]
    return None


def key_path(keys: tuple[Key, ...]) -> str:
    """``("layers", 0, "attention")`` -> ``layers[0].attention``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def read_yaml(path: Path) -> YamlDocument:
    """Read one YAML mapping from a file; see ``parse_yaml``."""
    return parse_yaml(read_bounded(path, MAX_YAML_BYTES, "a YAML file"), str(path))


def parse_yaml(text: str, path: str) -> YamlDocument:
    """Parse one YAML mapping.

    Raises:
        SpecError: malformed YAML, more than one document, not a mapping, a duplicate key, or an anchor.
    """
    root, data = _parsed(text, path)
    if not isinstance(data, dict):
        raise SpecError(f"expected a mapping of fields, found {kind_name(data)}", where=path)
    return YamlDocument(data, path, root)


def parse_value(text: str, where: str) -> Any:
    """One YAML value of any kind, under the same rules as a document; ``None`` for empty text.

    Raises:
        SpecError: as ``parse_yaml``.
    """
    plain = _NUMBER.fullmatch(text)
    if plain is not None:
        return int(text) if plain[1] is None else float(text)
    return _parsed(text, where)[1]


_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,17})(\.[0-9]{1,17}(?:e[-+][0-9]{1,2})?)?")
"""Numbers that YAML 1.1 and Python read alike: for those the YAML library, slow to load, is not needed."""


def _parsed(text: str, path: str) -> tuple[Node | None, Any]:
    import yaml

    kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = kind(text)
    try:
        if sum(map(text.count, "[{-?:")) > SAFE_DEPTH:  # every level takes one of these to open
            _check_depth(kind(text), path)
        root = loader.get_single_node()
        _check_tree(root, path)
        return root, loader.construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = f"{path}:{mark.line + 1}" if mark else path
        raise SpecError(f"malformed YAML: {exc.problem or exc.context}", where=place) from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise SpecError(f"malformed YAML: {exc}".splitlines()[0], where=path) from exc
    finally:
        loader.dispose()


def _check_depth(events: Any, path: str) -> None:
    import yaml

    depth = 0
    try:
        while events.check_event():
            event = events.get_event()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise SpecError(f"nested more than {MAX_DEPTH} deep", where=_at(event, path))
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    finally:
        events.dispose()


_AMBIGUOUS = re.compile(r"[-+]?(?:0[0-7_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)")
"""Numbers that only YAML 1.1 reads as it does: 1:30 is 90 in base 60, and 010 is 8 in base 8."""

_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

MAX_DIGITS = 1000
"""Longest number read; everything counted here has fewer than twenty digits."""


def _check_text(node: Node, path: str) -> None:
    if "\0" in node.value:
        raise SpecError("a text with a NUL character", where=_at(node, path), hint="no name has one")


def _check_number(node: Node, path: str) -> None:
    text = node.value
    if len(text) > MAX_DIGITS:
        raise SpecError(f"a number of {len(text):,} digits", where=_at(node, path))
    if _AMBIGUOUS.fullmatch(text):
        raise SpecError(
            f"{text} is no plain number: YAML 1.1 counts it in base {60 if ':' in text else 8}",
            where=_at(node, path),
            hint="write a decimal number, or quote it if it is text",
        )


def _check_tree(root: Node | None, path: str) -> None:
    seen: set[int] = set()
    stack = [] if root is None else [(root, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise SpecError(f"nested more than {MAX_DEPTH} deep", where=_at(node, path))
        if id(node) in seen:
            raise SpecError("YAML anchors and aliases are not accepted", where=_at(node, path))
        seen.add(id(node))
        if node.id == "mapping":
            names = set()
            for key, value in node.value:
                if key.id != "scalar":
                    raise SpecError("a key must be plain text", where=_at(key, path))
                if key.value in names:
                    raise SpecError(f"duplicate key {key.value!r}", where=_at(key, path))
                names.add(key.value)
                stack.append((value, depth + 1))
        elif node.id == "sequence":
            stack.extend((item, depth + 1) for item in node.value)
        elif node.tag in _NUMBER_TAGS:
            _check_number(node, path)
        else:
            _check_text(node, path)


def _at(node: Any, path: str) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def validate(document: YamlDocument, shape: type[M]) -> M:
    """Build ``shape`` from a document.

    Raises:
        SpecError: with ``file:line  key.path`` and, for an unknown field, the near ones.
    """
    try:
        return shape.model_validate(document.data)
    except ValidationError as exc:
        raise _invalid(document, shape, exc) from None


def _invalid(document: YamlDocument, shape: type[BaseModel], exc: ValidationError) -> KvplanError:
    items = exc.errors(include_url=False)
    given = [item["input"] for item in items if document.holds(tuple(item["loc"]))]
    found = [
        (_place(dict(item)), _complaint(shape, dict(item), document.written(tuple(item["loc"]))))
        for item in items
        # A shape may copy a value to another place: what is wrong with it is said where it was given.
        if item["type"] == "missing" or item["input"] not in given or document.holds(tuple(item["loc"]))
    ]
    # Unknown fields first: a misspelt name usually also shows up as a missing one.
    found.sort(key=lambda pair: ("unknown field" not in pair[1], document.line(pair[0]) or 0))
    (keys, message), rest = found[0], found[1:]
    for other, complaint in rest[: MAX_SHOWN_ERRORS - 1]:
        message += f"\n  also {document.where(other)}: {complaint}"
    if len(rest) >= MAX_SHOWN_ERRORS:
        message += f"\n  and {len(rest) - MAX_SHOWN_ERRORS + 1} more"
    kind: type[KvplanError] = UsageError if document.option(keys) is not None else SpecError
    return kind(message, where=document.where(keys))


def _place(item: dict[str, Any]) -> tuple[Key, ...]:
    """Keys of what is wrong; of a tagged part whose tag nobody knows, the tag's."""
    keys: tuple[Key, ...] = tuple(item["loc"])
    given = item["input"]
    if keys and isinstance(given, dict) and given.get("kind") == keys[-1]:
        return keys[:-1]  # the part as a whole, which pydantic calls by its tag
    return (*keys, "kind") if item["type"] in ("engine_kind", "union_tag_invalid") else keys


def _complaint(shape: type[BaseModel], item: dict[str, Any], written: str) -> str:
    """What is wrong with the value at the path ``written``."""
    keys: tuple[Key, ...] = tuple(item["loc"])
    if item["type"] == "extra_forbidden":
        called = getattr(shape, "called_elsewhere", {})
        # Also by what it is in: engines have names of their own.
        here = called.get(".".join(map(str, keys[-2:]))) or called.get(str(keys[-1]))
        if here is not None:
            return f"unknown field, it is called {here} here"
        instead = getattr(shape, "known_elsewhere", {}).get(str(keys[-1]))
        if instead is not None:
            return f"unknown field: {instead}"
        known = list(dict.fromkeys(fields_at(shape, keys[:-1])))
        places = [place for place in places_of(shape, str(keys[-1])) if place != written]
        near = near_names(str(keys[-1]), known, limit=2)
        near = (places or near) if len(keys) == 1 else near
        if near:
            return f"unknown field, did you mean {' or '.join(near)}?"
        text = "unknown field" + (f"; known are {', '.join(known)}" if known else "")
        return text + (f"; or did you mean {' or '.join(places)}?" if places else "")
    if item["type"] == "missing":
        return "this field is missing"
    if item["type"] == "union_tag_not_found":
        return "the field 'kind' is missing"
    given = item.get("input")
    if item["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"expected a mapping of fields, found {kind_name(given)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if isinstance(given, (str, int, float)) or given is None:
        shown = _shown(given)
        message += "" if shown in message else f" (got {shown})"
    return message[:1].lower() + message[1:] if message[:2] != message[:2].upper() else message


def _shown(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:
        return f"a number of more than {sys.get_int_max_str_digits()} digits"
    return text if len(text) <= MAX_SHOWN_VALUE else f"{text[:MAX_SHOWN_VALUE]}..."
