"""Reading results and sweeps from outside: bounded, strict, and precise about what is wrong where."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

from pydantic import ValidationError

from kvplan.errors import DataError, near_names
from kvplan.reporting.result import SCHEMA, Result
from kvplan.reporting.schema.part import Part
from kvplan.reporting.schema.plan import SCHEMA as PLAN
from kvplan.reporting.schema.plan import Plan
from kvplan.reporting.schema.sweep import SCHEMA as SWEEP
from kvplan.reporting.schema.sweep import Sweep

Report: TypeAlias = Result | Sweep | Plan

MAX_RESULT_BYTES = 256 << 20
"""A result is a few hundred kilobytes; a file beyond this bound is something else and is not read."""


def parse_result(document: object, *, where: str | None = None) -> Result:
    """Check a decoded document (lists for arrays, as ``json`` gives them).

    Raises:
        DataError: not ``kvplan.result/1``; names the key path of the first problem and counts the others.
    """
    _check_schema(document, where)
    return _validated(document, Result, where)


def parse_report(document: object, *, where: str | None = None) -> Report:
    """A result, a sweep of many, or a plan. Raises as ``parse_result``."""
    schema = document.get("schema") if isinstance(document, Mapping) else None
    if schema == SWEEP:
        return _validated(document, Sweep, where)
    if schema == PLAN:
        return _validated(document, Plan, where)
    return parse_result(document, where=where)


S = TypeVar("S", Result, Sweep, Plan)


def _validated(document: object, shape: type[S], where: str | None) -> S:
    try:
        found = shape.model_validate(document)
        json.dumps(found.model_dump(mode="json", by_alias=True), ensure_ascii=False).encode()
    except ValidationError as exc:
        _raise(exc, where, shape)
    except ValueError as exc:  # pydantic and UTF-8 both say it so; JSON can spell half a character
        raise DataError("holds text that is not Unicode (half a surrogate pair)", where=where) from exc
    return found


def _check_schema(document: object, where: str | None) -> None:
    if not isinstance(document, Mapping):
        raise DataError(
            f"a result is a JSON object, not {_json_kind(document)}", where=where, hint=_HINT_PRODUCER
        )
    schema = document.get("schema")
    if schema != SCHEMA:
        found = f"{schema!r:.60}" if "schema" in document else "none"
        raise DataError(f"expected schema {SCHEMA!r}, found {found}", where=where, hint=_schema_hint(schema))


def loads_result(text: str | bytes, *, where: str | None = None) -> Result:
    """Parse and check the text of a result.

    Raises:
        DataError: not JSON (says line and column), or not ``kvplan.result/1`` (says the key path).
    """
    return parse_result(_decoded(text, where), where=where)


def _decoded(text: str | bytes, where: str | None) -> object:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        place = f"{where or 'result'}:{exc.lineno}:{exc.colno}"
        whole = text.strip()
        hint = "was the file cut off while being written?" if whole[:1] in ("{", b"{") else _HINT_PRODUCER
        hint = hint if whole else "the file is empty"
        raise DataError(f"not valid JSON: {exc.msg}", where=place, hint=hint) from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"not UTF-8 text: {exc.reason} at byte {exc.start}", where=where) from exc
    except RecursionError as exc:
        raise DataError("nested too deeply to be a result", where=where, hint=_HINT_PRODUCER) from exc
    except ValueError as exc:
        raise DataError(f"not a usable number: {exc}", where=where) from exc


def load_result(path: str | Path, *, max_bytes: int = MAX_RESULT_BYTES) -> Result:
    """Read a result file, or stdin when ``path`` is ``-``.

    Raises:
        DataError: too large, not JSON, or not ``kvplan.result/1``.
        OSError: the file cannot be read.
    """
    data, where = _read(path, max_bytes)
    return loads_result(data, where=where)


def load_report(path: str | Path, *, max_bytes: int = MAX_RESULT_BYTES) -> Report:
    """The same for a result, a sweep or a plan."""
    data, where = _read(path, max_bytes)
    return parse_report(_decoded(data, where), where=where)


def _read(path: str | Path, max_bytes: int) -> tuple[bytes, str]:
    if str(path) == "-":
        data, where = sys.stdin.buffer.read(max_bytes + 1), "<stdin>"
    else:
        with open(path, "rb") as handle:
            data = handle.read(max_bytes + 1)
        where = str(path)
    if len(data) > max_bytes:
        raise DataError(
            f"larger than the {max_bytes:,} bytes a result may have", where=where, hint=_HINT_PRODUCER
        )
    return data, where


_HINT_PRODUCER = "give the file that `kvplan simulate -o result.json` wrote"


def _schema_hint(schema: object) -> str:
    if isinstance(schema, str) and schema.startswith("kvplan.result/"):
        return f"this kvplan reads {SCHEMA}; use the version of kvplan that wrote the file, or run it again"
    if isinstance(schema, str) and schema.startswith("kvplan.plan/"):
        return "a plan compares deployments; kvplan report shows it, and simulate -o writes a result"
    if isinstance(schema, str) and schema.startswith("kvplan.sweep/"):
        return "a sweep has one row a simulation; kvplan report shows it, and simulate -o writes a result"
    return _HINT_PRODUCER


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; a missing number is null")


def _json_kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _raise(exc: ValidationError, where: str | None, shape: type[Report]) -> NoReturn:
    problems = exc.errors(include_url=False)
    first = problems[0]
    path = key_path(first["loc"])
    message = f"{path or 'result'}: {_message(first)}"
    if len(problems) > 1:
        message += f" (and {len(problems) - 1} more problem{'s' if len(problems) > 2 else ''})"
    hint = None
    if first["type"] == "extra_forbidden":
        near = near_names(str(first["loc"][-1]), _sibling_names(first["loc"][:-1], shape))
        own = {Result: SCHEMA, Sweep: SWEEP, Plan: PLAN}[shape]
        hint = f"did you mean {', '.join(near)}?" if near else f"{own} has no such key"
    raise DataError(message, where=where, hint=hint) from exc


def key_path(location: Iterable[int | str]) -> str:
    """``('series', 't_s', 3)`` -> ``'series.t_s[3]'``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _message(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "missing":
        return "missing"
    if problem["type"] == "extra_forbidden":
        return "unknown key"
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    shown = problem.get("input")
    if isinstance(shown, (str, int, float, bool)) or shown is None:
        text = repr(shown) if not isinstance(shown, (bool, type(None))) else json.dumps(shown)
        message += f", found {text[:60]}"
    return message


def _sibling_names(location: Iterable[int | str], shape: type[Part]) -> list[str]:
    """The keys a closed object at ``location`` may have."""
    part: Any = shape
    for step in location:
        if isinstance(step, int):
            continue
        field = next((f for n, f in part.model_fields.items() if step in (n, f.alias)), None)
        part = _part_of(field.annotation) if field is not None else None
        if part is None:
            return []
    return [field.alias or name for name, field in part.model_fields.items()]


def _part_of(annotation: Any) -> Any:
    """The closed object inside an annotation like ``list[Slo]`` or ``Memory | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    found = (_part_of(argument) for argument in getattr(annotation, "__args__", ()))
    return next((part for part in found if part is not None), None)
