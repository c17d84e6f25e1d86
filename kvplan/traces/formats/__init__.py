"""The trace formats, each in a file of its own; and finding out which one a file is in."""

from __future__ import annotations

from importlib import import_module

from kvplan.errors import DataError, UnknownName
from kvplan.traces.formats.contract import TraceFormat, csv_columns, json_keys

_MODULES = {
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
}
"""Format -> module, in the order in which they are tried: the more particular first."""

_ALIASES = {"vidur": "csv", "splitwise": "csv", "aiperf": "mooncake", "recording": "tokens"}

OWN_TABLE = "arrival_s,prompt_tokens,output_tokens"

_UNREAD = {
    "RAGPulse": ({"sys_prompt", "passages_ids"}, "its components have variable lengths kept in other files"),
    "LMCache agent traces": ({"timestamp", "input", "output", "session_id"}, "raw text needs a tokenizer"),
    "LLMServingSim": (
        {"input_toks", "output_toks"},
        f"rewrite it as CSV: {OWN_TABLE}",
    ),
    "ShareGPT": ({"conversations", "from", "value"}, "raw text needs a tokenizer; no arrival times"),
    "an OpenAI batch": ({"custom_id", "body"}, "raw text needs a tokenizer; no arrival times"),
    "chat messages": ({"messages", "role", "content"}, "raw text needs a tokenizer"),
}
"""Formats that are recognised only to say why they are not read."""


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


def unrecognised(head: bytes, name: str) -> DataError:
    """The error for content in no known format: names line 1 and the nearest formats."""
    where = f"{name}:1"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return DataError("the text is UTF-16", where=where, hint="convert it to UTF-8 first")
    if b"\0" in head[:1024]:
        return DataError("this is a binary file, not a trace", where=where)
    array = head.lstrip()[:1] == b"["
    rows = head.lstrip()[1:].replace(b"\n", b" ") if array else head
    keys = {key.lower() for key in json_keys(rows, 3)} or set(csv_columns(head))
    for other, (signature, why) in _UNREAD.items():
        if signature <= keys:
            return DataError(f"this looks like {other}, which kvplan does not read", where=where, hint=why)
    scored = []
    for candidate in _MODULES:
        wanted = {key.lower() for key in get(candidate).keys}
        common = len(keys & wanted)
        if common:
            scored.append((-common / len(wanted), candidate, sorted(wanted - keys)))
    if array:
        hint = "one JSON array is not read: write one object a line (jq -c '.[]' does)"
    elif scored:
        _, nearest, missing = min(scored)
        hint = f"nearest is {nearest}"
        if missing:
            hint += f", which also has {', '.join(missing[:6])}"
    else:
        hint = f"formats: {', '.join(names())}; name one with --trace-format"
    if head.lstrip()[:1] not in (b"[", b"{"):
        hint += f"; a table of your own has commas and the columns {OWN_TABLE}"
    return DataError("not a trace in a known format", where=where, hint=hint)
