"""JSON from outside: one object, of bounded size and depth, no key of it twice with different values."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from kvplan.errors import SpecError
from kvplan.specs.bounded import read_bounded

MAX_JSON_BYTES = 16 << 20
MAX_SHOWN = 60
"""Characters of a text that is no JSON, in an error."""


def read_json(path: Path, limit: int | None = None, *, finite: bool = False) -> dict[str, Any]:
    """One JSON object from a file of at most ``limit`` bytes (16 MiB); ``finite``: without NaN, infinities.

    Raises:
        SpecError: too large, malformed (with line and column), or not an object.
    """
    return parse_json(read_bounded(path, limit or MAX_JSON_BYTES, "a JSON file"), str(path), finite=finite)


def parse_json(text: str, path: str, *, finite: bool = False) -> dict[str, Any]:
    """One JSON object from text; ``path`` is what errors call it."""
    if not text.strip():
        raise SpecError("this file is empty", where=path)
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_refused if finite else None)
    except _Twice as exc:
        raise SpecError(
            f"duplicate key {exc.key!r} with different values", where=f"{path}:{_second_line(text, exc.key)}",
            hint="keep the one that is meant",
        ) from None  # fmt: skip
    except json.JSONDecodeError as exc:
        begins = " ".join(text.split())[:MAX_SHOWN]
        raise SpecError(
            f"malformed JSON: {exc.msg} (column {exc.colno})",
            where=f"{path}:{exc.lineno}",
            # A download that needs a log-in is a page or a sentence.
            hint=None if begins.startswith(("{", "[")) else f"no JSON at all, it begins: {begins}",
        ) from exc
    except _NotFinite as exc:
        raise SpecError(f"malformed JSON: {exc} is no number", where=path) from None
    except RecursionError as exc:
        raise SpecError("malformed JSON: nested too deeply", where=path) from exc
    except ValueError as exc:
        limit = sys.get_int_max_str_digits()
        raise SpecError(f"malformed JSON: a number of more than {limit} digits", where=path) from exc
    if not isinstance(data, dict):
        raise SpecError(f"expected a JSON object, found {kind_name(data)}", where=path)
    return data


class _Twice(Exception):
    """A key that an object has twice."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _NotFinite(Exception):
    """``NaN`` or an infinity, which JSON does not have and Python reads."""


def _refused(constant: str) -> float:
    raise _NotFinite(constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys have one value each; the last one would silently hide the others."""
    found = dict(pairs)
    if len(found) != len(pairs):
        for key, value in pairs:
            if value != found[key]:
                raise _Twice(key)
    return found


def _second_line(text: str, key: str) -> int:
    """The line on which a key stands for the second time."""
    places = [match.start() for match in re.finditer(rf"{re.escape(json.dumps(key))}\s*:", text)]
    return text.count("\n", 0, places[1]) + 1 if len(places) > 1 else 1


def kind_name(value: object) -> str:
    """What a value that is no object is called in an error."""
    names = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true/false"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
