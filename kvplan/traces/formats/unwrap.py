"""Files that hold their rows in another way than one a line, as one JSON object a line.

Unwrapped are arrays of objects (nested ones, and the one list of requests within an object), objects of
columns (``{"input_lens": [...], "output_lens": [...]}``, as serving benchmarks write), objects over several
lines, lines with what stands around them in an array or encoded twice, and Parquet and Arrow files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec

from kvplan.errors import DataError, EnvironmentLacks
from kvplan.traces.columns import COUNTS, plain_name, served
from kvplan.traces.formats.contract import BROKEN
from kvplan.traces.formats.record_columns import SESSIONS, looks_like_requests
from kvplan.traces.formats.record_rows import Row, flatten

Unwrapping: TypeAlias = Callable[[bytes, str, list[str]], Iterator[bytes]]
"""(content, name, notes) to lines; raises ``DataError`` where the content holds no rows, or several lists."""

NEXT_OBJECT = re.compile(rb"(?<=\n\})\r?\n(?=\{)")
"""Between indented objects in a row: only the outermost end at the margin."""

MAX_DEPTH = 6
_TRIED = 100
"""Lines by which it is told whether they are objects."""
_ROWS = 10_000
"""Rows of a Parquet file that are in memory at once."""
_PLURALS = {
    "input_lens": "input_len", "output_lens": "output_len", "start_times": "start_time",
    "prompt_lens": "prompt_len", "arrival_times": "arrival_time", "timestamps": "timestamp",
    "arrivals": "arrival", "input_lengths": "input_length", "output_lengths": "output_length",
    "generated_texts": "generated_text", "prompts": "prompt_text",
}  # fmt: skip
"""Lists of a benchmark's result, and what each item is called."""


def unwrapping(head: bytes) -> Unwrapping | None:
    """How the content that begins so is unwrapped; None where it has a row a line."""
    if head.startswith(b"PAR1"):
        return _parquet
    if head.startswith(b"ARROW1"):
        return _arrow
    first, end, rest = head.lstrip().partition(b"\n")
    if first[:1] not in (b"[", b"{", b'"'):
        return None
    if first[:1] != b"[" and (bare := _bare(first)) != first.rstrip() and _is_object(bare):
        return bare_lines
    try:
        whole = msgspec.json.decode(first)
    except BROKEN:
        # Not whole: an object over several lines, or one line that is longer than the head.
        return _document if not end or first.rstrip() in (b"[", b"{") or first[:1] == b"[" else None
    if first[:1] == b"[" or not rest.strip() or is_session(whole):
        return _document
    return None


def _document(content: bytes, name: str, notes: list[str]) -> Iterator[bytes]:
    try:
        documents = [msgspec.json.decode(content)]
    except BROKEN:
        pieces = NEXT_OBJECT.split(content.strip())
        lines = content.splitlines() if len(pieces) == 1 else pieces
        try:
            documents = [msgspec.json.decode(piece) for piece in lines if piece.strip()]
        except BROKEN:
            return bare_lines(content, name, notes)
    rows = _rows_of(documents[0] if len(documents) == 1 else documents, name, notes)
    return map(msgspec.json.encode, rows)


def bare_lines(content: bytes, name: str, notes: list[str]) -> Iterator[bytes]:
    """The objects of lines, without the commas and brackets of an array; none of one that breaks off."""
    if content.lstrip()[:1] == b"[" and content.rstrip()[-1:] != b"]":
        return iter(())
    lines = [bare for line in content.splitlines() if (bare := _bare(line))]
    whole = sum(map(_is_object, lines[:_TRIED])) * 2 > len(lines[:_TRIED])
    return iter(lines if whole else ())  # who asked says what it may be instead


def _bare(line: bytes) -> bytes:
    """A line without what an array has around its items, and as an object where it is the text of one."""
    line = line.strip()
    if line[:1] == b"[" and line[1:].lstrip()[:1] in (b"{", b'"', b""):
        line = line[1:].lstrip()
    line = line.removesuffix(b",").rstrip()
    if line[:1] in (b"{", b'"', b"]"):
        line = line.removesuffix(b"]").rstrip().removesuffix(b",").rstrip()
    if line[:1] != b'"':
        return line
    try:
        text = msgspec.json.decode(line, type=str)
    except BROKEN:
        return line
    return text.strip().encode() if text.lstrip()[:1] == "{" and "\n" not in text.strip() else line


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except BROKEN:
        return False


def _rows_of(document: Any, name: str, notes: list[str]) -> list[Any]:
    if isinstance(document, dict):
        if (table := _of_columns(document) or _split(document)) is not None:
            notes.append("the file's lists, item by item, are read as one request each")
            if document.get("request_rate") is not None:
                notes.append(
                    f"the benchmark's request_rate was {str(document['request_rate'])[:20]} (--rate)"
                )
            return table
        if is_request(document):
            return [document]
        found = list(_lists(document, MAX_DEPTH, notes))
        if len(found) > 1:
            raise DataError(
                f"the file holds {len(found)} lists of requests: {', '.join(path for path, _ in found[:5])}",
                where=name, hint="keep the one that is meant",
            )  # fmt: skip
        if not found:
            return [document]
        path, rows = found[0]
        notes.append(f"the list {path!r} in the file is read, and nothing else of it")
        return rows
    if not isinstance(document, list):
        raise DataError("the JSON document is neither a list nor an object", where=name)
    if document and all(isinstance(item, list) for item in document):
        notes.append(f"{len(document):,} lists in a list are read one after another")
        return [row for item in document for row in item]
    if document and all(map(is_session, document)):
        notes.append(f"{len(document):,} sessions are read turn by turn")
        return [turn for session in document for turn in turns_of(session)]
    return document


def _of_columns(document: dict[str, Any]) -> list[Any] | None:
    """The rows of an object whose lists are columns; only those of one length with the prompts' belong."""
    lists = {key: values for key, value in document.items() if (values := _column(value)) is not None}
    named = {_PLURALS.get(plain_name(key), plain_name(key)): key for key in lists}
    prompts = next((named[name] for name in COUNTS["prompt_tokens"] if name in named), None)
    if prompts is None or not any(name in named for name in COUNTS["output_tokens"]):
        return None
    count = len(lists[prompts])
    columns = {name: lists[key] for name, key in named.items() if len(lists[key]) == count}
    return [{name: values[index] for name, values in columns.items()} for index in range(count)]


def _column(value: Any) -> list[Any] | None:
    """The items of a list, or of what pandas writes for one: an object with the rows' numbers as its keys."""
    if isinstance(value, dict) and value and list(value) == [str(number) for number in range(len(value))]:
        return list(value.values())
    return value if isinstance(value, list) else None


def _split(document: dict[str, Any]) -> list[Any] | None:
    """The rows of what pandas writes with ``orient="split"``."""
    columns, data = document.get("columns"), document.get("data")
    if not isinstance(columns, list) or not isinstance(data, list):
        return None
    if not all(isinstance(row, list) and len(row) == len(columns) for row in data):
        return None
    return [dict(zip(map(str, columns), row, strict=True)) for row in data]


def _lists(document: Any, depth: int, notes: list[str], path: str = "") -> Iterator[tuple[str, list[Any]]]:
    """(path, items) of every list of requests within a document; the turns of sessions are one list."""
    if isinstance(document, list):
        if document and all(map(is_request, document[:20])):
            yield path or "[]", document
        elif document and depth and all(isinstance(item, list) for item in document):
            inner = [found for item in document for _, found in _lists(item, depth - 1, notes)]
            if inner:
                yield path, [row for rows in inner for row in rows]
        elif document and all(map(is_session, document)):
            yield path, [turn for session in document for turn in turns_of(session)]
        elif depth:
            for place, item in enumerate(document):
                yield from _lists(item, depth - 1, notes, f"{path}[{place}]")
    elif isinstance(document, dict) and depth:
        for key, value in served(document, notes):
            yield from _lists(value, depth - 1, notes, f"{path}.{key}" if path else key)


def is_session(item: object) -> bool:
    """Whether a JSON value is a named session with one list of requests."""
    if not isinstance(item, dict) or is_request(item):
        return False
    named = any(plain_name(key) in SESSIONS for key in item)
    return named and len(_turns(item)) == 1


def turns_of(session: dict[str, Any]) -> list[Any]:
    """The requests of a session, each with what the session says of all of them."""
    shared = {key: value for key, value in session.items() if not isinstance(value, (list, dict))}
    (turns,) = _turns(session)
    return [{**shared, **turn} if isinstance(turn, dict) else turn for turn in turns]


def _turns(session: dict[str, Any]) -> list[list[Any]]:
    return [
        value for value in session.values()
        if isinstance(value, list) and value and all(map(is_request, value[:20]))
    ]  # fmt: skip


def is_request(item: object) -> bool:
    """Whether a JSON value is an object with the lengths of a prompt and an answer."""
    if not isinstance(item, dict):
        return False
    found: dict[str, Any] = {}
    flatten(item, found, set(), {})
    return looks_like_requests([Row(1, found)])


def _parquet(content: bytes, name: str, notes: list[str]) -> Iterator[bytes]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise _lacks("Parquet") from None
    return _batches(lambda: pq.ParquetFile(io.BytesIO(content)).iter_batches(_ROWS), name, "Parquet")


def _arrow(content: bytes, name: str, notes: list[str]) -> Iterator[bytes]:
    try:
        from pyarrow import feather
    except ImportError:
        raise _lacks("Arrow") from None
    return _batches(lambda: feather.read_table(io.BytesIO(content)).to_batches(_ROWS), name, "Arrow")


def _batches(opened: Callable[[], Any], name: str, kind: str) -> Iterator[bytes]:
    try:
        for batch in opened():
            for row in batch.to_pylist():
                yield msgspec.json.encode(row, enc_hook=str)
    except (OSError, ValueError, ArithmeticError, LookupError, NotImplementedError) as exc:
        raise DataError(f"not a {kind} file that can be read: {exc}", where=name) from exc


def _lacks(kind: str) -> EnvironmentLacks:
    return EnvironmentLacks(
        f"reading a trace in {kind} needs pyarrow",
        hint="pip install 'kvplan[parquet]', or write the trace as CSV or JSON lines",
    )
