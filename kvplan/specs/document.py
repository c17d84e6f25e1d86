"""Reading YAML and JSON from outside: bounded, safe, and every complaint with its file, line and key path.

A YAML document keeps its node tree, so that a validation error found later can name the line. Anchors and
duplicate keys are refused: the first let a small file grow without bound, the second hide a value.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from kvplan.errors import SpecError, near_names

MAX_YAML_BYTES = 2 << 20
MAX_JSON_BYTES = 16 << 20
MAX_SHOWN_ERRORS = 8

M = TypeVar("M", bound=BaseModel)
Node = Any
"""A node of PyYAML, which is imported only once there is YAML to read (its stubs do not know ``id``)."""
Key = str | int


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed YAML mapping: ``data``, the file it came from, and the nodes that remember their lines."""

    data: dict[str, Any]
    path: str
    root: Node | None

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
        place = self.path if line is None else f"{self.path}:{line}"
        shown = key_path(self._present(keys))
        return f"{place}  {shown}" if shown else place

    def _present(self, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        """The path without union tags: keys that exist, plus a last one that may be missing."""
        node, kept = self.root, []
        for index, key in enumerate(keys):
            step = _child(node, key)
            if step is not None:
                node = step[1]
                kept.append(key)
            elif index == len(keys) - 1:
                kept.append(key)
        return tuple(kept)


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


def read_bounded(path: Path, limit: int, what: str) -> str:
    """The text of a file no larger than ``limit`` bytes, UTF-8.

    Raises:
        SpecError: a directory, too large, or not text. OSError when it cannot be opened.
    """
    if path.is_dir():
        raise SpecError(f"expected {what}, found a directory", where=str(path))
    with open(path, "rb") as handle:
        raw = handle.read(limit + 1)
    if len(raw) > limit:
        raise SpecError(
            f"{what} of {path.stat().st_size:,} bytes is larger than the limit of {limit:,} bytes",
            where=str(path),
            hint="this does not look like a configuration; is it the weights or an index?",
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SpecError(f"not UTF-8 text: {exc.reason} at byte {exc.start}", where=str(path)) from exc


def read_yaml(path: Path) -> YamlDocument:
    """Read one YAML mapping from a file; see ``parse_yaml``."""
    return parse_yaml(read_bounded(path, MAX_YAML_BYTES, "a YAML file"), str(path))


def parse_yaml(text: str, path: str) -> YamlDocument:
    """Parse one YAML mapping.

    Raises:
        SpecError: malformed YAML, more than one document, not a mapping, a duplicate key, or an anchor.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        _check_tree(root, path)
        data = loader.construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = f"{path}:{mark.line + 1}" if mark else path
        raise SpecError(f"malformed YAML: {exc.problem or exc.context}", where=place) from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise SpecError(f"malformed YAML: {exc}".splitlines()[0], where=path) from exc
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise SpecError(f"expected a mapping of fields, found {_kind(data)}", where=path)
    return YamlDocument(data, path, root)


def _check_tree(root: Node | None, path: str) -> None:
    seen: set[int] = set()
    stack = [] if root is None else [root]
    while stack:
        node = stack.pop()
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
                stack.append(value)
        elif node.id == "sequence":
            stack.extend(node.value)


def _at(node: Node, path: str) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object from a file.

    Raises:
        SpecError: too large, malformed (with line and column), or not an object.
    """
    text = read_bounded(path, MAX_JSON_BYTES, "a JSON file")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as exc:
        raise SpecError(
            f"malformed JSON: {exc.msg} (column {exc.colno})", where=f"{path}:{exc.lineno}"
        ) from exc
    except RecursionError as exc:
        raise SpecError("malformed JSON: nested too deeply", where=str(path)) from exc
    except ValueError as exc:
        limit = sys.get_int_max_str_digits()
        raise SpecError(f"malformed JSON: a number of more than {limit} digits", where=str(path)) from exc
    if not isinstance(data, dict):
        raise SpecError(f"expected a JSON object, found {_kind(data)}", where=str(path))
    return data


def _kind(value: object) -> str:
    names = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true/false"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def validate(document: YamlDocument, shape: type[M]) -> M:
    """Build ``shape`` from a document.

    Raises:
        SpecError: with ``file:line  key.path`` and, for an unknown field, the near ones.
    """
    try:
        return shape.model_validate(document.data)
    except ValidationError as exc:
        raise _spec_error(document, shape, exc) from None


def _spec_error(document: YamlDocument, shape: type[BaseModel], exc: ValidationError) -> SpecError:
    found = [(tuple(item["loc"]), _complaint(shape, dict(item))) for item in exc.errors(include_url=False)]
    # Unknown fields first: a misspelt name usually also shows up as a missing one.
    found.sort(key=lambda pair: "unknown field" not in pair[1])
    (keys, message), rest = found[0], found[1:]
    for other, complaint in rest[: MAX_SHOWN_ERRORS - 1]:
        message += f"\n  also {document.where(other)}: {complaint}"
    if len(rest) >= MAX_SHOWN_ERRORS:
        message += f"\n  and {len(rest) - MAX_SHOWN_ERRORS + 1} more"
    return SpecError(message, where=document.where(keys))


def _complaint(shape: type[BaseModel], item: dict[str, Any]) -> str:
    keys: tuple[Key, ...] = tuple(item["loc"])
    if item["type"] == "extra_forbidden":
        near = near_names(str(keys[-1]), _fields_at(shape, keys[:-1]), limit=2)
        return "unknown field" + (f", did you mean {' or '.join(near)}?" if near else "")
    if item["type"] == "missing":
        return "this field is missing"
    if item["type"] == "union_tag_not_found":
        return "the field 'kind' is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    given = item.get("input")
    if isinstance(given, (str, int, float)) or given is None:
        message += f" (got {given!r})"
    return message[:1].lower() + message[1:] if message[:2] != message[:2].upper() else message


def _fields_at(shape: type[BaseModel], keys: tuple[Key, ...]) -> list[str]:
    """Names of the fields of the model that ``keys`` lead to, walking annotations and union tags."""
    options: list[Any] = [shape]
    for key in keys:
        tagged = [m for m in options if _tag(m) == key]
        if tagged:
            options = tagged
            continue
        following: list[Any] = []
        for option in options:
            if isinstance(option, type) and issubclass(option, BaseModel):
                for name, field in option.model_fields.items():
                    if key in (name, field.alias):
                        following += _members(field.annotation)
            else:
                following += [m for part in get_args(option) for m in _members(part)]
        options = following
    names: list[str] = []
    for option in options:
        for part in [option] if isinstance(option, type) else _members(option):
            if isinstance(part, type) and issubclass(part, BaseModel):
                names += [field.alias or name for name, field in part.model_fields.items()]
    return names


def _tag(option: Any) -> object:
    if isinstance(option, type) and issubclass(option, BaseModel) and "kind" in option.model_fields:
        return option.model_fields["kind"].default
    return None


def _members(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [m for part in get_args(annotation) for m in _members(part)]
    return [annotation]
