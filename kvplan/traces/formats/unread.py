"""Content in no format that is read: what it is, where that can be told, and what to do about it.

Nearly always it is one of four: a file of another kind, text without token counts, a known format written in
another shape (semicolons, one array, a remark before the header), or a table whose columns have other names.
"""

from __future__ import annotations

import re

from kvplan.errors import DataError
from kvplan.traces import formats
from kvplan.traces.columns import counted, delimiter_of, plain_name
from kvplan.traces.formats.contract import csv_columns, first_line, json_keys
from kvplan.traces.settings import setting

OWN_TABLE = "arrival_s,prompt_tokens,output_tokens"
_OWN_LINE = '{"timestamp": 1500, "input_length": 1000, "output_length": 20}'

_TOKENIZER = "raw text needs a tokenizer"
_CALIBRATE = "kvplan calibrate --engine-log fits an engine to it"

_LOOKS = {
    "RAGPulse": ({"sys_prompt", "passages_ids"}, "its components have variable lengths kept in other files"),
    "LMCache agent traces": ({"timestamp", "input", "output", "session_id"}, _TOKENIZER),
    "LLMServingSim": ({"input_toks", "output_toks"}, f"rewrite it as CSV: {OWN_TABLE}"),
    "ShareGPT": ({"conversations", "from", "value"}, f"{_TOKENIZER}; no arrival times"),
    "WildChat conversations": ({"conversation_hash", "conversation", "role", "content"}, _TOKENIZER),
    "LMSYS conversations": ({"conversation", "role", "content"}, f"{_TOKENIZER}; no arrival times"),
    "an OpenAI batch": ({"custom_id", "body"}, f"{_TOKENIZER}; no arrival times"),
    "prompts for aiperf": ({"text_input"}, _TOKENIZER),
    "an export of aiperf": ({"request_start_ns", "metrics"}, f"it is a serving run: {_CALIBRATE}"),
    "the result of a serving benchmark": (
        {"input_lens", "completed"},
        f"it is a serving run: {_CALIBRATE}; as traffic, write its lengths and times as CSV: {OWN_TABLE}",
    ),
    "the raw export of GenAI-Perf": (
        {"experiments", "request_inputs"},
        "it holds texts and moments, but not how many tokens they are; aiperf's profile_export.jsonl does",
    ),
    "Jaeger JSON": (
        {"traceid", "operationname"},
        "export the spans as OTLP JSON (the file exporter of the OpenTelemetry collector)",
    ),
    "chat messages": ({"messages", "role", "content"}, _TOKENIZER),
}
"""Formats that are recognised by their keys only to say why they are not read."""

_TABLE_HINT = f"write it as CSV ({OWN_TABLE}) or as JSON lines first"
_COLUMNS_HINT = f"its columns need names like {OWN_TABLE}"
_UNPACKED = "decompress it first, or compress it with gzip, zstd or xz"

_FIRST_BYTES = {
    b"PAR1": ("a Parquet file without requests", _COLUMNS_HINT),
    b"ARROW1": ("an Arrow file without requests", _COLUMNS_HINT),
    b"SQLite format 3": ("an SQLite database", _TABLE_HINT),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it first"),
    b"Rar!\x1a\x07": ("a RAR archive", "unpack it first"),
    b"\x04\x22\x4d\x18": ("lz4-compressed", _UNPACKED),
    b"\x1f\x9d": ("compressed by `compress`", _UNPACKED),
    b"version https://git-lfs": (
        "a pointer of Git LFS and not the file",
        "git lfs pull fetches what it points to",
    ),
    b"<!doctype html": ("a web page", "download the file itself (on GitHub: Raw)"),
    b"<html": ("a web page", "download the file itself (on GitHub: Raw)"),
}
"""First bytes (of texts in lower case) of files that are not read: what it is, what to do."""

_SERVER = re.compile(
    rb"server_args=|API server version|(?:Prefill|Decode) batch|Avg prompt throughput|KV [Cc]ache"
)
"""What engines' logs say early."""

_VLLM_REQUESTS = re.compile(rb"Received request \S{1,200}: |Added request \S{1,200}\.")

_OWN = re.compile(rb'\s*\{\s*"schema"\s*:\s*"kvplan\.([a-z-]{1,20})/')

_PARTED = {b";": "semicolons", b"\t": "tabs", b"|": "bars"}
_VALUES = re.compile(rb"[-+0-9.: TZ\"]+(?:,[-+0-9.: TZ\"]+)+\r?")
"""A line of numbers and moments."""

_MOST_COLUMNS = 12
"""Columns of a table that a message names."""

_REMARKS = 5
"""Lines before a header that are looked over."""

_TABLES = frozenset({"azure", "burstgpt", "csv", "servegen"})
"""Formats of tables; the others are JSON."""


def unrecognised(head: bytes, name: str) -> DataError:
    """The error for content in no known format: names the line and the nearest formats."""
    where = f"{name}:1"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return DataError("the text is UTF-16", where=where, hint="convert it to UTF-8 first")
    begins = head[:64].lstrip()
    for first, (what, remedy) in _FIRST_BYTES.items():
        if begins.startswith(first) or begins.lower().startswith(first):
            return DataError(f"this is {what}, which kvplan does not read", where=name, hint=remedy)
    if b"\0" in head[:1024]:
        return DataError("this is a binary file, not a trace", where=where)
    if (own := _OWN.match(head)) is not None:
        return DataError(
            f"this is what kvplan wrote itself: {own[1].decode()}",
            where=where,
            hint="kvplan report shows results; the rows of a simulation (--requests rows.csv) are a trace",
        )
    if (error := _misshapen(head, name)) is not None:
        return error
    if _VLLM_REQUESTS.search(head) is not None:
        return DataError(
            "this looks like vLLM's request log, which does not say how long answers were", where=where,
            hint="spans do, which --otlp-traces-endpoint exports: they are read as OTLP JSON",
        )  # fmt: skip
    if _SERVER.search(head) is not None:
        return DataError(
            "this looks like the log of a server, which is no trace", where=where,
            hint="kvplan explain-log reads it; a trace has a row a request",
        )  # fmt: skip
    return _unlike(head, where)


def _misshapen(head: bytes, name: str) -> DataError | None:
    """The error for a known format in a shape that is not read."""
    text = head.lstrip(b"\r\n\t ")
    if text[:1] in (b"{", b"["):
        return None
    line, _, rest = text.partition(b"\n")
    if b"\r" in line.rstrip(b"\r") and formats.recognise(text.replace(b"\r", b"\n"), name):
        return DataError(
            "its lines end with carriage returns alone",
            where=f"{name}:1",
            hint="end them with line feeds: tr '\\r' '\\n' does",
        )
    for mark, called in _PARTED.items():
        if mark in line and formats.recognise(line.replace(mark, b",") + b"\n", name):
            return DataError(
                f"its columns are parted by {called}",
                where=f"{name}:1",
                hint="part them by commas; numbers have decimal points and no marks between thousands",
            )
    if _VALUES.fullmatch(line):
        return DataError(
            "the first line holds values where a table has the names of its columns",
            where=f"{name}:1",
            hint=f"write the names before it, for example {OWN_TABLE}",
        )
    for number in range(2, 2 + _REMARKS):
        if not rest.strip():
            break
        if formats.recognise(rest, name):
            return DataError(
                "the names of the columns are not in the first line",
                where=f"{name}:{number}",
                hint="remove what stands before them",
            )
        line, _, rest = rest.partition(b"\n")
    return None


def _unlike(head: bytes, where: str) -> DataError:
    """The error for content that no format comes close to; the nearest are told."""
    text = head.lstrip()
    array, json = text[:1] == b"[", text[:1] in (b"[", b"{")
    spread = array or text.split(b"\n", 1)[0].strip() == b"{"
    rows = text[1:] if array else text
    if spread:
        rows = rows.replace(b"\n", b" ")
    keys = {key.lower() for key in json_keys(rows, 3)} or set(csv_columns(head))
    for other, (signature, why) in _LOOKS.items():
        if signature <= keys:
            return DataError(
                f"this looks like {other}, which kvplan does not read as a trace", where=where, hint=why
            )
    if not json and (error := _half_a_table(head, where)) is not None:
        return error
    if array:
        hint = "an array is read where its objects are requests of a known format, and its JSON is whole"
    elif spread and formats.recognise(rows, ""):
        hint = "its JSON is damaged: is the file whole?"
    elif near := _nearest(keys, json):
        hint = near
    else:
        hint = f"formats: {', '.join(formats.names())}; name one ({setting('format', 'NAME')})"
    if json and not spread:
        hint += f"; lines of your own are like {_OWN_LINE}, times in ms"
    elif not json:
        hint += f"; a table of your own has commas and the columns {OWN_TABLE}"
        if len(header := _header(head)) > 2:
            hint += f" (these are {', '.join(header[:_MOST_COLUMNS])})"
    return DataError("not a trace in a known format", where=where, hint=hint)


def _header(head: bytes) -> list[str]:
    """The names in the first line of a table, as they are looked up."""
    line = first_line(head)
    return [plain_name(name)[:40] for name in line.split(delimiter_of(line))]


def _half_a_table(head: bytes, where: str) -> DataError | None:
    """The error for a table whose lengths are no numbers, or that lacks those of prompts or of answers."""
    header = _header(head)
    found = [quantity for quantity in ("prompt_tokens", "output_tokens") if counted(quantity, header)]
    if len(found) == 2:
        columns = " and ".join(repr(counted(quantity, header)[0].name) for quantity in found)
        return DataError(
            f"the columns {columns} do not hold numbers of tokens in most of the first rows",
            where=where, hint="write whole numbers, like 1200",
        )  # fmt: skip
    if not found:
        return None
    missing = "output_tokens" if found[0] == "prompt_tokens" else "prompt_tokens"
    what = "answers" if missing == "output_tokens" else "prompts"
    hint = f"name it {missing}"
    if any(name in ("total_tokens", "total_token_count", "tokens_total") for name in header):
        hint += ": of the total, what the other side has not"
    return DataError(
        f"no column of the tokens that {what} have; the columns are {', '.join(header[:_MOST_COLUMNS])}",
        where=where, hint=hint,
    )  # fmt: skip


def _nearest(keys: set[str], json: bool) -> str:
    """The format that has most of the keys, of those of the same kind; empty where none has any."""
    scored = []
    for candidate in formats.names():
        wanted = {key.lower() for key in formats.get(candidate).keys}
        if (candidate in _TABLES) != json and (common := len(keys & wanted)):
            scored.append((-common / len(wanted), candidate, sorted(wanted - keys)))
    if not scored:
        return ""
    _, nearest, missing = min(scored)
    return f"nearest is {nearest}" + (f", which also has {', '.join(missing[:6])}" if missing else "")
