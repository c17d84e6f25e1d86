"""OpenTelemetry GenAI spans: token counts of model calls, from a collector's JSON.

Understood: ``{"spans": [...]}`` (also one such object or one span a line), and OTLP JSON
(``resourceSpans``). Names of the attributes changed between versions of the convention; the current and
the earlier (``prompt_tokens``, ``completion_tokens``) names are read. Text is not tokenized, so reuse is
unknown; a provider's own count of cached tokens is reported as a note. A span ends with its answer, so calls
of a session also say whose answer they waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from kvplan.traces.accounting import Accounting
from kvplan.traces.formats.contract import Intake, ReadOptions, TraceFormat
from kvplan.traces.formats.instants import TICKS_PER_S, Instants
from kvplan.traces.formats.jsonl import fault
from kvplan.traces.request import Request, default_output
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import unknown_run
from kvplan.traces.turns import Recorded, with_turns

_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_CACHED = "gen_ai.usage.cache_read.input_tokens"
_BEGUN = ("start_time", "startTimeUnixNano", "start_time_unix_nano")
_ENDED = ("end_time", "endTimeUnixNano", "end_time_unix_nano")
_SESSIONS = ("gen_ai.conversation.id", "session.id", "exgentic.session.id")


def sniff(head: bytes, name: str) -> bool:
    spans = any(key in head for key in (b'"spans"', b'"resourceSpans"', b'"span_id"', b'"spanId"'))
    return spans and head.lstrip()[:1] in (b"{", b"[")


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order of the file; a span without token counts is a dropped row.

    The line of a dropped row is the number of its span.
    """
    admit = Intake(options, accounting).admit
    to_ticks = Instants().ticks
    start: int | None = None
    asked = cached = 0
    recorded: list[Recorded] = []
    for span in _spans(source, accounting):
        index = accounting.rows
        accounting.rows += 1
        number = accounting.rows
        if not isinstance(span, dict):
            accounting.drop("span is not an object", number)
            continue
        attributes = _attributes(span.get("attributes"))
        if not any(key.startswith("gen_ai.") for key in attributes):
            accounting.drop("not a model call (no gen_ai attributes)", number)
            continue
        prompt_tokens, output_tokens = _count(attributes, _INPUT), _count(attributes, _OUTPUT)
        if prompt_tokens is None or output_tokens is None:
            accounting.drop("no token counts (gen_ai.usage.*)", number)
            continue
        try:
            ticks = _time(span, _BEGUN, to_ticks)
        except (ValueError, TypeError):
            accounting.drop("no start time that can be read", number)
            continue
        origin = ticks if start is None else start
        arrival_s = (ticks - origin) / TICKS_PER_S * options.time_scale / options.rate_scale
        output_tokens = admit(number, abs(arrival_s), prompt_tokens, output_tokens)
        if not output_tokens:
            continue
        start = origin
        asked += prompt_tokens
        cached += _count(attributes, (_CACHED,)) or 0
        accounting.requests += 1
        accounting.without_ids += 1
        request = Request(
            f"{index:06d}",
            arrival_s,
            (unknown_run(index, prompt_tokens),),
            prompt_tokens,
            default_output(index, output_tokens),
            output_tokens,
            0,
            _session(span, attributes),
        )
        try:
            ended = _time(span, _ENDED, to_ticks)
        except (ValueError, TypeError):
            ended = -1
        answered_s = (ended - origin) / TICKS_PER_S if ended >= ticks else None
        recorded.append(Recorded(request, (ticks - origin) / TICKS_PER_S, answered_s))
    yield from with_turns(recorded, time_scale=options.time_scale)
    if cached:
        accounting.note(f"provider-reported cached tokens: {cached:,} of {asked:,} ({cached / asked:.1%})")


def _spans(source: Source, accounting: Accounting) -> Iterator[Any]:
    for line, content in _documents(source):
        try:
            document = msgspec.json.decode(content)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            accounting.rows += 1
            accounting.drop(fault(error, content), line)
            continue
        yield from _unwrap(document)


def _documents(source: Source) -> Iterator[tuple[int, bytes]]:
    """Lines when the first line is a whole JSON value, else the file as one document."""
    first, _, rest = source.head.lstrip().partition(b"\n")
    try:
        msgspec.json.decode(first, type=msgspec.Raw)
        lines = bool(rest.strip())
    except msgspec.MsgspecError:
        lines = False
    if lines:
        yield from source.lines()
    else:
        yield 1, source.document()


def _unwrap(document: Any) -> Iterator[Any]:
    if isinstance(document, list):
        for item in document:
            yield from _unwrap(item) if isinstance(item, dict) else (item,)
    elif isinstance(document, dict) and isinstance(document.get("spans"), list):
        yield from document["spans"]
    elif isinstance(document, dict) and isinstance(document.get("resourceSpans"), list):
        for resource in document["resourceSpans"]:
            scopes = resource.get("scopeSpans") if isinstance(resource, dict) else None
            for scope in scopes if isinstance(scopes, list) else ():
                yield from _unwrap(scope)
    else:
        yield document


def _attributes(raw: Any) -> dict[str, Any]:
    """Attributes as a mapping; OTLP writes them as ``[{"key": ..., "value": {"intValue": ...}}]``."""
    if isinstance(raw, dict):
        return raw
    found: dict[str, Any] = {}
    for item in raw if isinstance(raw, list) else ():
        if isinstance(item, dict) and isinstance(item.get("value"), dict):
            found[str(item.get("key"))] = next(iter(item["value"].values()), None)
    return found


def _count(attributes: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, str) and value.isdecimal() and len(value) < 19:
            return int(value)  # OTLP writes 64-bit integers as text
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _time(span: dict[str, Any], names: tuple[str, ...], to_ticks: Any) -> int:
    value = next((span[name] for name in names if name in span), None)
    if isinstance(value, str) and not value.isdecimal():
        return int(to_ticks(value))
    nanoseconds = int(value)  # type: ignore[arg-type]  # a TypeError is the caller's to count
    if not 0 <= nanoseconds < 1 << 63:
        raise ValueError(value)
    return nanoseconds // 100


def _session(span: dict[str, Any], attributes: dict[str, Any]) -> str | None:
    for name in _SESSIONS:
        if isinstance(attributes.get(name), str):
            return str(attributes[name])
    trace = span.get("trace_id", span.get("traceId"))
    return trace if isinstance(trace, str) else None


FORMAT = TraceFormat(
    name="otel",
    summary="OpenTelemetry GenAI spans as JSON, with token counts",
    sniff=sniff,
    read=read,
    keys=frozenset({"spans", "span_id", "start_time", "attributes"}),
    merges=True,
    from_first=True,
)
