"""OpenTelemetry GenAI spans: token counts of model calls, from a collector's JSON.

Understood: ``{"spans": [...]}`` (also one such object or one span a line, or indented spans in a row, as
Python's console exporter prints them), and OTLP JSON (``resourceSpans``). Names of the attributes changed
between versions of the convention; the current and the earlier (``prompt_tokens``, ``completion_tokens``)
names are read, and those of OpenInference (``llm.token_count.*``), OpenLLMetry and Vercel. Text is not
tokenized, so reuse is unknown; a provider's own count of cached tokens is reported as a note. A span
ends with its answer, so calls of a session also say whose answer they waited for.

An agent's span carries the tokens of the calls below it, a gateway's those of the call it passes on: a span
around counted spans below it is no call of its own. A span id that comes again is the same span, exported
twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from kvplan.traces.accounting import Accounting
from kvplan.traces.formats.contract import BROKEN, Intake, ReadOptions, TraceFormat
from kvplan.traces.formats.instants import TICKS_PER_S, Instants, ticks_since_1970
from kvplan.traces.formats.jsonl import fault
from kvplan.traces.formats.span_tree import SpanId, SpanTree, trace_of
from kvplan.traces.request import Request
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import unknown_request
from kvplan.traces.turns import Recorded, with_turns

_INPUT = (
    "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt",
    "llm.usage.prompt_tokens", "ai.usage.inputTokens", "ai.usage.promptTokens",
)  # fmt: skip
_OUTPUT = (
    "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion",
    "llm.usage.completion_tokens", "ai.usage.outputTokens", "ai.usage.completionTokens",
)  # fmt: skip
_CACHED = (
    "gen_ai.usage.cache_read.input_tokens", "llm.token_count.prompt_details.cache_read",
    "gen_ai.usage.cache_read_input_tokens", "ai.usage.cachedInputTokens",
)  # fmt: skip
_CALLS = ("gen_ai.", "llm.", "ai.usage.", "ai.model.", "openinference.span.kind")
"""How attributes of model calls begin: OpenTelemetry's, OpenInference's, OpenLLMetry's, Vercel's."""
_KIND = "openinference.span.kind"
_KINDS = frozenset({"agent", "chain", "tool", "retriever", "embedding", "reranker", "guardrail", "evaluator"})
"""Kinds of OpenInference's spans that are no model calls."""
_OPERATION = "gen_ai.operation.name"
_SUMS = frozenset({"invoke_agent", "create_agent", "invoke_workflow", "execute_tool"})
"""Operations that are no model call themselves."""
_BEGUN = ("start_time", "startTimeUnixNano", "start_time_unix_nano")
_ENDED = ("end_time", "endTimeUnixNano", "end_time_unix_nano")
_UNNAMED = frozenset({"start_time", "end_time"})
"""Fields whose numbers are in a unit that only their magnitude tells."""
_JAEGER = (b'"operationName"', b'"traceID"')
_SESSIONS = ("gen_ai.conversation.id", "session.id", "exgentic.session.id")


def sniff(head: bytes, name: str) -> bool:
    spans = any(
        key in head
        for key in (b'"spans"', b'"resourceSpans"', b'"resource_spans"', b'"span_id"', b'"spanId"')
    )
    return spans and head.lstrip()[:1] in (b"{", b"[") and not all(key in head for key in _JAEGER)


class _Call(NamedTuple):
    """A counted span, while it is not known whether counted spans lie below it."""

    number: int
    span: SpanId | None
    operation: str
    asked: int
    cached: int
    recorded: Recorded


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order of the file; a span without token counts is a dropped row.

    The line of a dropped row is the number of its span.
    """
    admit = Intake(options, accounting).admit
    clock = _Clock()
    tree = SpanTree()
    start: int | None = None
    calls: list[_Call] = []
    counted: set[SpanId] = set()
    for span in _spans(source, accounting):
        index = accounting.rows
        accounting.rows += 1
        number = accounting.rows
        if not isinstance(span, dict):
            accounting.drop("span is not an object", number)
            continue
        key = tree.add(span)
        attributes = _attributes(span.get("attributes"))
        if not any(key.startswith(_CALLS) for key in attributes):
            accounting.drop("not a model call (no gen_ai or llm attributes)", number)
            continue
        prompt_tokens, output_tokens = _count(attributes, _INPUT), _count(attributes, _OUTPUT)
        operation = str(attributes.get(_OPERATION) or attributes.get(_KIND)).lower()
        if (prompt_tokens is None or output_tokens is None) and operation in _KINDS:
            accounting.drop("not a model call (by its openinference.span.kind)", number)
            continue
        if prompt_tokens is None or output_tokens is None:
            accounting.drop("no token counts (gen_ai.usage.*, llm.token_count.*)", number)
            continue
        try:
            ticks = clock.ticks(span, _BEGUN)
        except (ValueError, TypeError):
            accounting.drop("no start time that can be read", number)
            continue
        if key in counted:
            accounting.drop("span seen before (the same trace and span id)", number)
            continue
        origin = ticks if start is None else start
        arrival_s = (ticks - origin) / TICKS_PER_S * options.time_scale / options.rate_scale
        output_tokens = admit(number, abs(arrival_s), prompt_tokens, output_tokens)
        if not output_tokens:
            continue
        start = origin
        if key is not None:
            counted.add(key)
        session = _session(span, attributes)
        request = unknown_request(index, arrival_s, prompt_tokens, output_tokens, 0, session)
        try:
            ended = clock.ticks(span, _ENDED)
        except (ValueError, TypeError):
            ended = -1
        answered_s = (ended - origin) / TICKS_PER_S if ended >= ticks else None
        recorded = Recorded(request, (ticks - origin) / TICKS_PER_S, answered_s)
        found = _count(attributes, _CACHED) or 0
        calls.append(_Call(number, key, operation, prompt_tokens, found, recorded))
    calls = _without_sums(calls, tree, accounting)
    accounting.requests += len(calls)
    accounting.without_ids += len(calls)
    asked, cached = sum(call.asked for call in calls), sum(call.cached for call in calls)
    yield from with_turns([call.recorded for call in calls], time_scale=options.time_scale)
    for unit in clock.units:
        accounting.note(f"start_time is a number, taken for {unit} since 1970")
    if cached:
        accounting.note(f"provider-reported cached tokens: {cached:,} of {asked:,} ({cached / asked:.1%})")


def _without_sums(calls: list[_Call], tree: SpanTree, accounting: Accounting) -> list[_Call]:
    """The calls, without those that only add up or pass on what the spans below them count.

    A parent that had its answer before the span below it began was waited for: a turn before, not a sum.
    """
    below = tree.first_below({call.span: call.recorded.sent_s for call in calls if call.span is not None})
    kept = []
    for call in calls:
        begun_s = below.get(call.span) if call.span is not None else None
        answered_s = call.recorded.answered_s
        around = begun_s is not None and answered_s is not None and begun_s < answered_s
        if around or (begun_s is not None and call.operation in _SUMS | _KINDS):
            accounting.drop("sums up the spans below it", call.number)
        else:
            kept.append(call)
    return kept


def _spans(source: Source, accounting: Accounting) -> Iterator[Any]:
    for line, content in _documents(source):
        try:
            document = msgspec.json.decode(content)
        except BROKEN as error:
            accounting.rows += 1
            accounting.drop(fault(error, content), line)
            continue
        yield from _unwrap(document)


def _documents(source: Source) -> Iterator[tuple[int, bytes]]:
    """Lines when the first line is a whole JSON value, else the file as one document, or several in a row."""
    first, _, rest = source.head.lstrip().partition(b"\n")
    try:
        msgspec.json.decode(first, type=msgspec.Raw)
        lines = bool(rest.strip())
    except BROKEN:
        lines = False
    if lines:
        yield from source.lines()
        return
    line = 1
    for piece in _NEXT_OBJECT.split(source.document()):
        yield line, piece
        line += piece.count(b"\n") + 1


_NEXT_OBJECT = re.compile(rb"(?<=\n\})\r?\n(?=\{)")
"""Between indented objects in a row: only the outermost end at the margin."""


def _unwrap(document: Any) -> Iterator[Any]:
    if isinstance(document, list):
        for item in document:
            yield from _unwrap(item) if isinstance(item, dict) else (item,)
    elif isinstance(document, dict) and isinstance(document.get("spans"), list):
        yield from document["spans"]
    elif (resources := _listed(document, "resourceSpans", "resource_spans")) is not None:
        for resource in resources:
            scopes = _listed(resource, "scopeSpans", "scope_spans", "instrumentationLibrarySpans")
            for scope in scopes or ():
                yield from _unwrap(scope)
    else:
        yield document


def _listed(found: Any, *names: str) -> list[Any] | None:
    """The list under the first of the names that has one: protobuf's own are camel case, Python's are not."""
    if not isinstance(found, dict):
        return None
    return next((found[name] for name in names if isinstance(found.get(name), list)), None)


def _attributes(raw: Any) -> dict[str, Any]:
    """Attributes as a mapping; OTLP writes them as ``[{"key": ..., "value": {"intValue": ...}}]``."""
    found: dict[str, Any] = {}
    if isinstance(raw, dict):
        _nested("", raw, found)
        return found
    for item in raw if isinstance(raw, list) else ():
        if isinstance(item, dict) and isinstance(item.get("value"), dict):
            found[str(item.get("key"))] = next(iter(item["value"].values()), None)
    return found


def _nested(prefix: str, raw: dict[str, Any], found: dict[str, Any], depth: int = 6) -> None:
    """Attributes by their full names; some exporters nest them at the dots."""
    for key, value in raw.items():
        if isinstance(value, dict) and depth:
            _nested(f"{prefix}{key}.", value, found, depth - 1)
        else:
            found[f"{prefix}{key}"] = value


def _count(attributes: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, str) and value.isdecimal() and len(value) < 19:
            return int(value)  # OTLP writes 64-bit integers as text
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
            return int(value)
    return None


class _Clock:
    """Times of spans as ticks.

    Attributes:
        units: other than nanoseconds, that numbers were taken to be in.
    """

    def __init__(self) -> None:
        self._instants = Instants()
        self.units: set[str] = set()

    def ticks(self, span: dict[str, Any], names: tuple[str, ...]) -> int:
        """The first of the named fields that is there: a date, or a number since 1970.

        Raises:
            ValueError, TypeError: there is none, or it is no time.
        """
        name = next((name for name in names if span.get(name) is not None), None)
        value = span[name] if name is not None else None
        if isinstance(value, str) and not _NUMBER.match(value):
            return self._instants.ticks(value)
        if not isinstance(value, (int, float, str)) or isinstance(value, bool):
            raise TypeError(value)
        if name not in _UNNAMED:
            nanoseconds = int(value)
            if not 0 <= nanoseconds < 1 << 63:
                raise ValueError(value)
            return nanoseconds // 100
        number = float(value) if isinstance(value, str) and "." in value else value
        number = int(number) if isinstance(number, str) else number
        unit, ticks = ticks_since_1970(number)
        if unit != "nanoseconds":
            self.units.add(unit)
        return ticks


_NUMBER = re.compile(r"\d{1,19}(\.\d{1,9})?\Z", re.ASCII)


def _session(span: dict[str, Any], attributes: dict[str, Any]) -> str | None:
    for name in _SESSIONS:
        if isinstance(attributes.get(name), str):
            return str(attributes[name])
    return trace_of(span)


FORMAT = TraceFormat(
    name="otel",
    summary="OpenTelemetry GenAI spans as JSON, with token counts",
    sniff=sniff,
    read=read,
    keys=frozenset({"spans", "span_id", "start_time", "attributes"}),
    merges=True,
    documents=True,
    from_first=True,
)
