"""Errors in a log: which lines are exceptions, and which of them ended a start or a server.

What ended it for want of memory has a wording of its own. Of other errors the last one counts that is no mere
consequence: parents print those of their processes once more, and then their own about the process.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvplan.sizing.logs.lines import Fact

_EXCEPTION = re.compile(
    r"(?:^|[\s\])}])(?:[A-Za-z_]\w{0,60}\.){0,8}([A-Z]\w{0,60}(?:Error|Exception): \S.{0,2000})"
)
_FIELD = re.compile(r"\bValue error, (\S.{0,2000})")
"""What pydantic says of one option, in the line behind the one with the exception."""

_ARGUMENTS = re.compile(r" \[type=\w+, input_value=.*")
"""What pydantic says behind it."""

_CONSEQUENCES = (
    "engine core initialization failed", "workerproc initialization failed", "engine process failed to start",
    "enginecore encountered an issue", "enginedeaderror", "validation error for", "cancellederror",
    "worker failed with error", "broken pipe", "connection reset", "remotedisconnected",
)  # fmt: skip
"""Of which another error is the cause."""

_HARMLESS = re.compile(r"\b(?:DEBUG|INFO|WARNING|Warning)\b")
"""What stands before an exception that somebody has caught."""

MOST = 300
"""Characters of an error that are quoted."""


def error(text: str) -> str | None:
    """The exception in a line, by its name and message; ``None`` of other lines and of mere consequences."""
    if "rror" not in text and "xception" not in text:
        return None
    match = _FIELD.search(text) or _EXCEPTION.search(text)
    if match is None or _HARMLESS.search(text, 0, match.start()) is not None:
        return None
    if any(cue in match[0].casefold() for cue in _CONSEQUENCES):
        return None
    said = _ARGUMENTS.sub("", match[1]).strip()
    return said if len(said) <= MOST else f"{said[:MOST]}..."


def ended(facts: tuple[Fact, ...], *, up: bool) -> bool:
    """Whether an error ended what these facts are of: it says so, or was not up and one comes last."""
    if any(fact.name == "stopped" for fact in facts):
        return True
    return not up and bool(facts) and facts[-1].name == "error"


def last_error(facts: tuple[Fact, ...]) -> str | None:
    """The error that counts; ``None`` without any."""
    return next((str(fact.values["words"]) for fact in reversed(facts) if fact.name == "error"), None)
