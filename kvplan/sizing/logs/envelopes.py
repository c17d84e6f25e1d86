"""What stands around an engine's line: a terminal's colours, a collector's JSON, a page's marks."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

_ESCAPE = r"(?:\x1b|\\u001b|\\x1b|\\033|\^\[|\#033)"
"""Escape itself, and how what cannot keep it writes it."""

_COLOURS = re.compile(rf"{_ESCAPE}\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
"""What terminals are told about colours and titles; container logs keep it."""

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos|nbsp);")
"""How web pages write characters."""

_MESSAGES = (
    "message",
    "msg",
    "log",
    "MESSAGE",
    "text",
    "line",
    "textPayload",
    "body",
    "jsonPayload",
    "@message",
    "event",
    "_raw",
    "content",
    "stringValue",
)
"""Fields in which collectors and formatters keep what was printed."""

_PROCESSES = ("processName", "process_name")
"""Fields in which formatters keep the process, which names the rank."""

_OPENS_WITHIN = 200
"""Characters of a line in which an object begins: timestamps and streams come before it."""

_MAX_OBJECT = 1 << 20
"""Characters of a line that are looked at, an object's included."""

_MAX_DEPTH = 4
"""How deep envelopes lie in each other."""

_MAX_TREE = 20
"""How deep a document is that holds many of them."""


def unwrapped(line: str) -> list[str]:
    """The lines that one line of a log holds: one, or those of a message; without colours and marks."""
    line = line[:_MAX_OBJECT]
    message = _message(line, _MAX_DEPTH)
    if message is None and (plain := _characters(line)) != line:
        line, message = plain, _message(plain, _MAX_DEPTH)
    lines = [line] if message is None else message.splitlines() or [""]
    return [_COLOURS.sub("", _characters(text)).strip("\r\n\ufeff") for text in lines]


def _characters(text: str) -> str:
    """A text with the characters that a web page's marks stand for."""
    return _ENTITY.sub(lambda mark: html.unescape(mark[0]), text) if "&" in text else text


def _message(line: str, depth: int) -> str | None:
    """What was printed, with its process and its pod before it; ``None`` where no object holds it."""
    opening = line.find("{", 0, _OPENS_WITHIN)
    if opening < 0 or depth == 0 or not line.rstrip().endswith("}"):
        return None
    try:
        found = json.loads(line[opening:])
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    message = printed(found, depth)
    if message is not None or opening:
        return message
    # A line of many: what OpenTelemetry's collector exports together.
    return "\n".join(messages(found)) or None


def printed(found: dict[str, Any], depth: int = _MAX_DEPTH) -> str | None:
    """What an object holds of what was printed, with its process and its pod before each line."""
    message = _text(found, depth)
    if message is None:
        return None
    inner = _message(message, depth - 1)
    before = _pod(found) + _process(found)
    return "\n".join(before + text for text in (message if inner is None else inner).splitlines())


def messages(node: Any, depth: int = _MAX_TREE) -> Iterator[str]:
    """What was printed, of queries' answers (Loki, Elasticsearch, CloudWatch, Datadog) and of lists."""
    if depth == 0:
        return
    if isinstance(node, dict):
        message = printed(node)
        if message is not None:
            yield message
            return
        for value in node.values():
            if isinstance(value, (list, dict)):
                yield from messages(value, depth - 1)
    elif isinstance(node, list):
        if (
            len(node) in (2, 3)
            and isinstance(node[0], str)
            and node[0].isdigit()
            and isinstance(node[1], str)
        ):
            yield node[1]  # Loki: [nanoseconds, line]
            return
        for item in _oldest_first(node):
            if isinstance(item, (list, dict)):
                yield from messages(item, depth - 1)


def _oldest_first(items: list[Any]) -> list[Any]:
    """Entries with times of their own, which queries answer with the newest first, in the order of these."""
    times = [_time(item) for item in items]
    ordered = all(earlier is not None for earlier in times) and all(
        type(later) is type(earlier) and earlier >= later for earlier, later in pairwise(times)
    )
    return items[::-1] if ordered and len(items) > 1 and times[0] != times[-1] else items


def _time(item: Any) -> Any:
    """When an entry was written: a number, or a date that sorts as text."""
    if isinstance(item, list) and len(item) in (2, 3) and isinstance(item[0], str) and item[0].isdigit():
        return int(item[0])
    found = item.get("timestamp") if isinstance(item, dict) else None
    return found if isinstance(found, (str, int, float)) else None


def _text(found: dict[str, Any], depth: int) -> str | None:
    for key in _MESSAGES:
        value = found.get(key)
        if isinstance(value, str):
            return value
        if (
            isinstance(value, list)
            and value
            and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value)
        ):
            return bytes(value).decode(errors="replace")  # journald's, of lines with colours
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            return "\n".join(value)  # Elasticsearch's, of fields
        if isinstance(value, dict) and depth:
            return _text(value, depth - 1)
    return None


def _process(found: dict[str, Any]) -> str:
    name = next((found[key] for key in _PROCESSES if isinstance(found.get(key), str)), None)
    return "" if name is None else f"({name} pid=0) "


def _pod(found: dict[str, Any]) -> str:
    where = found.get("kubernetes")
    name = where.get("pod_name") if isinstance(where, dict) else None
    return f"[pod/{name}] " if isinstance(name, str) else ""
