"""The trace formats, each in a file of its own; and finding out which one a file is in."""

from __future__ import annotations

from importlib import import_module

from kvplan.errors import UnknownName
from kvplan.traces.formats.contract import TraceFormat

_MODULES = {
    "sglang": "sglang_log",
    "tokens": "tokens",
    "bailian": "bailian",
    "mooncake": "mooncake",
    "azure": "azure",
    "burstgpt": "burstgpt",
    "csv": "lengths",
    "weka": "weka",
    "otel": "otel",
    "tracelab": "tracelab",
    "servegen": "servegen",
    "records": "records",
}
"""Format -> module, in the order in which they are tried: the more particular first."""

_ALIASES = {"vidur": "csv", "splitwise": "csv", "aiperf": "mooncake", "recording": "tokens"}


def names() -> list[str]:
    """Every format, sorted."""
    return sorted(_MODULES)


def get(name: str) -> TraceFormat:
    """The format called ``name``.

    Raises:
        UnknownName: there is none; suggests near ones.
    """
    name = _ALIASES.get(name, name)
    if name not in _MODULES:
        raise UnknownName(
            "trace format", name, [*_MODULES, *_ALIASES, "auto"], hint=f"known: auto, {', '.join(names())}"
        )
    module = import_module(f"kvplan.traces.formats.{_MODULES[name]}")
    found = module.FORMAT
    assert isinstance(found, TraceFormat)
    return found


def recognise(head: bytes, name: str) -> TraceFormat | None:
    """The format that a head of the content (or the file names of a directory) looks like."""
    for candidate in _MODULES:
        found = get(candidate)
        if found.sniff(head, name):
            return found
    return None
