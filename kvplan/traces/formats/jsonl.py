"""Decoding JSON lines into typed rows, with a reason for each line that is not one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from kvplan.traces.accounting import Accounting
from kvplan.traces.formats.contract import BROKEN, top_keys
from kvplan.traces.formats.table import named
from kvplan.traces.source import Source

R = TypeVar("R", bound=msgspec.Struct)

Priority: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=1 << 31)]
"""Lower is served first."""

HALF_WRITTEN = "half-written last line"
_EXACT = 1 << 53
"""Below it every whole number is a floating-point number of its own."""
_INDEX = re.compile(r"\[\d+\]")


def fault(error: Exception, line: bytes) -> str:
    """Why a line could not be decoded, in words that repeat for lines with the same fault."""
    if isinstance(error, msgspec.ValidationError):
        return f"field missing or mistyped: {_INDEX.sub('[...]', str(error))}"
    if isinstance(error, RecursionError):
        return "JSON nested too deeply"
    if not line.endswith(b"\n"):
        return HALF_WRITTEN
    return "not JSON"


def rows(source: Source, accounting: Accounting, kind: type[R]) -> Iterator[tuple[int, R]]:
    """``(line number, row)`` for each line that decodes as ``kind``; the others are dropped and counted."""
    decode: Callable[[bytes], R] = msgspec.json.Decoder(kind).decode
    for number, line in source.lines():
        accounting.rows += 1
        try:
            row = decode(line)
        except msgspec.ValidationError as error:
            try:
                row = msgspec.convert(_whole(msgspec.json.decode(line)), kind)
            except BROKEN:
                accounting.drop(fault(error, line), number)
                continue
        except BROKEN as error:
            accounting.drop(fault(error, line), number)
            continue
        yield number, row


def _whole(item: Any) -> Any:
    """The same with whole numbers for ``1000.0`` and ``1e3``, where these are exact."""
    if isinstance(item, float) and abs(item) < _EXACT and item == int(item):
        return int(item)
    if isinstance(item, list):
        return [_whole(inner) for inner in item]
    return {key: _whole(inner) for key, inner in item.items()} if isinstance(item, dict) else item


def note_unread(source: Source, accounting: Accounting, kind: type[msgspec.Struct]) -> None:
    """Notes names in the first lines that ``kind`` has no field for: a misspelt one must not pass unseen."""
    fields = kind.__struct_encode_fields__
    if others := sorted(top_keys(source.head) - set(fields)):
        accounting.note(f"not read: {named(others)}")
