"""What a sweep varies: ``cache.blocks=1000,2000`` and the points of the cross product."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from kvplan.errors import SpecError, UsageError
from kvplan.scenario.load import field_value, split_setting

MAX_POINTS = 1_000
"""Most simulations of one sweep: more is a search, and a table nobody reads."""

_RANGE = re.compile(r"^(-?\d{1,15})\.\.(-?\d{1,15}):(\d{1,15})$")
_LIKE_A_RANGE = re.compile(r"^-?[\d.e]*\d\.\.-?[\d.e]+(:.*)?$")
_OPEN, _CLOSE = "[{", "]}"


@dataclass(frozen=True, slots=True)
class Axis:
    """One scenario field and the values it takes; ``texts`` are the values as they were written."""

    key: str
    values: tuple[Any, ...]
    texts: tuple[str, ...]


def parse_axis(text: str) -> Axis:
    """``cache.eviction=lru,lfu``; ``cache.blocks=1000..4000:1000`` is a range with both ends.

    Values are YAML; commas within brackets or quotes belong to a value.

    Raises:
        UsageError: no key, no values, a value that is not YAML, the same value twice.
    """
    key, raw = split_setting(text)
    example = "write it like --vary cache.eviction=lru,lfu"
    if not key:
        raise UsageError(f"cannot read --vary {text!r}", hint=example)
    texts = tuple(_range(raw.strip()) or _split(raw))
    if any(not item for item in texts):
        raise UsageError(f"--vary {key} has an empty value", hint=f"{example}; null unsets a field")
    values = []
    for item in texts:
        try:
            values.append(field_value(key, item, "--vary"))
        except SpecError as exc:
            raise UsageError(f"cannot read the value {item!r} of --vary {key}: {exc.message}") from exc
    repeated = [item for place, item in enumerate(texts) if values.index(values[place]) != place]
    if repeated:
        raise UsageError(f"--vary {key} has {repeated[0]!r} twice", hint="give every value once")
    return Axis(key, tuple(values), texts)


def _range(text: str) -> list[str] | None:
    found = _RANGE.match(text)
    if found is None:
        if _LIKE_A_RANGE.match(text):
            raise UsageError(
                f"cannot read the range {text!r}",
                hint="write it first..last:step in whole numbers (1000..4000:1000), or name every value",
            )
        return None
    first, last, step = map(int, found.groups())
    if step < 1 or last < first:
        raise UsageError(f"the range {text!r} has no values", hint="write it first..last:step, rising")
    if (last - first) // step >= MAX_POINTS:
        raise UsageError(f"the range {text!r} has more than {MAX_POINTS:,} values")
    return [str(value) for value in range(first, last + 1, step)]


def _split(text: str) -> Iterator[str]:
    """At commas outside brackets and quotes."""
    depth, quote, piece = 0, "", ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in _OPEN:
            depth += 1
        elif sign in _CLOSE:
            depth -= 1
        elif sign == "," and depth == 0:
            yield piece.strip()
            piece = ""
            continue
        piece += sign
    yield piece.strip()


def points(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Every combination, key to value as written; the last axis changes fastest.

    Raises:
        UsageError: a field on two axes, one inside another, or too many points.
    """
    keys = [axis.key for axis in axes]
    for place, key in enumerate(keys):
        for other in keys[:place]:
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise UsageError(f"--vary {key} and --vary {other} set the same field", hint="give one")
    many = prod(len(axis.values) for axis in axes)
    if many > MAX_POINTS:
        raise UsageError(f"{many:,} points are more than a sweep may have, {MAX_POINTS:,}", hint="vary less")
    return [dict(zip(keys, texts, strict=True)) for texts in product(*(axis.texts for axis in axes))]
