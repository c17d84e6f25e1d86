"""The release that a log names, if it is one."""

from __future__ import annotations

from kvplan.errors import UsageError
from kvplan.sizing.serving import parse_version

FIRST = (0, 2, 0)
"""What is built from a copy without tags calls itself ``dev``, ``0.0.0`` or ``0.1.dev1234+g0a1b2c3``."""


def named_release(text: str | None) -> str | None:
    """The version, or None where the engine does not know its own."""
    if text is None:
        return None
    try:
        return text if parse_version(text) >= FIRST else None
    except UsageError:
        return None
