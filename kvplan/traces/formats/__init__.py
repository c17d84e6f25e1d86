"""The trace formats, each in a file of its own; and finding out which one a file is in."""

from __future__ import annotations

from importlib import import_module

from kvplan.errors import DataError, UnknownName
from kvplan.traces.formats.contract import TraceFormat, csv_columns, json_keys
from kvplan.traces.settings import setting

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
    "Jaeger JSON": (
        {"traceid", "operationname"},
        "export the spans as OTLP JSON (the file exporter of the OpenTelemetry collector)",
    ),
    "chat messages": ({"messages", "role", "content"}, "raw text needs a tokenizer"),
}
"""Formats that are recognised only to say why they are not read."""

_TABLE_HINT = f"write it as CSV ({OWN_TABLE}) or as JSON lines first"

_BINARY = {
    b"PAR1": ("a Parquet file", f"{_TABLE_HINT}: pandas.read_parquet and DataFrame.to_csv do"),
    b"ARROW1": ("an Arrow file", f"{_TABLE_HINT}: pandas.read_feather and DataFrame.to_csv do"),
    b"SQLite format 3": ("an SQLite database", _TABLE_HINT),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it first"),
    b"Rar!\x1a\x07": ("a RAR archive", "unpack it first"),
    b"\x04\x22\x4d\x18": ("lz4-compressed", "decompress it first, or compress it with gzip, zstd or xz"),
    b"\x1f\x9d": ("compressed by `compress`", "decompress it first, or compress it with gzip, zstd or xz"),
}
"""First bytes of files that traces are kept in and that are not read: what it is, what to do."""


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
    for first, (what, remedy) in _BINARY.items():
        if head.startswith(first):
            return DataError(f"this is {what}, which kvplan does not read", where=name, hint=remedy)
    if b"\0" in head[:1024]:
        return DataError("this is a binary file, not a trace", where=where)
    array = head.lstrip()[:1] == b"["
    rows = head.lstrip()[1:] if array else head.lstrip()
    if array or rows.split(b"\n", 1)[0].strip() == b"{":
        rows = rows.replace(b"\n", b" ")  # indented: one object over many lines
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
        hint = f"formats: {', '.join(names())}; name one ({setting('format', 'NAME')})"
    if head.lstrip()[:1] not in (b"[", b"{"):
        hint += f"; a table of your own has commas and the columns {OWN_TABLE}"
    return DataError("not a trace in a known format", where=where, hint=hint)
