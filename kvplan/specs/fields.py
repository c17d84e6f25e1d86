"""The fields of a schema: which a key path leads to, and where one of a given name is."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

DEPTH = 4
"""How deep schemas are looked through for a name; none is deeper."""
MOST = 3
"""How many places are told."""


def fields_at(shape: type[BaseModel], keys: tuple[str | int, ...]) -> list[str]:
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


def places_of(shape: type[BaseModel], name: str) -> list[str]:
    """Dotted paths of fields called ``name`` anywhere below ``shape``, the nearest first; at most three."""
    found: list[str] = []
    level: list[tuple[str, type[BaseModel]]] = [("", shape)]
    for _ in range(DEPTH):
        following = []
        for path, model in level:
            for attribute, field in model.model_fields.items():
                place = path + (field.alias or attribute)
                if (field.alias or attribute) == name:
                    found.append(place)
                following += [
                    (f"{place}.", part)
                    for part in _members(field.annotation)
                    if isinstance(part, type) and issubclass(part, BaseModel)
                ]
        level = following
    return list(dict.fromkeys(found))[:MOST]
