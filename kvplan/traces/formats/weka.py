"""Weka agent sessions: one JSON document (a file, an archive member or a line) per session.

A session lists its model calls with ``t`` (s since the session's start), ``in`` and ``out`` tokens and ids
of ``floor(in / block_size)`` blocks; the tail is not hashed, so nothing can hit it. Sub-agents nest, with
``t`` relative to their marker. Ids are local to a session unless ``hash_id_scope`` is ``global``.

Replaying ``t`` is open-loop: it repeats the pace of the server that was recorded. With ``api_time`` calls
also say whose answer they waited for, and ``think_time`` how long they were sent after it. Sessions have no
common clock; with a rate they start as a Poisson process, without one they all start at 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvplan.traces.accounting import Accounting
from kvplan.traces.archives import can_be_trace
from kvplan.traces.arrivals import ArrivalProcess
from kvplan.traces.formats.contract import (
    BROKEN,
    MAX_ARRIVAL_S,
    MAX_BLOCK_SIZE,
    Intake,
    ReadOptions,
    TraceFormat,
    json_keys,
)
from kvplan.traces.formats.jsonl import fault
from kvplan.traces.request import Request, TokenRuns, default_output
from kvplan.traces.source import Source
from kvplan.traces.streams import stream
from kvplan.traces.tokenspace import BlockIds, unknown_run
from kvplan.traces.turns import Recorded, with_turns

BLOCK_SIZE = 64
GRAIN_S = 1.0
"""``t`` is in whole seconds."""
_MAX_DEPTH = 8


class Call(msgspec.Struct, gc=False, rename={"prompt": "in", "output": "out"}):
    """One model call, or the marker of a sub-agent when it has ``requests``."""

    t: float
    type: str = ""
    prompt: int = 0
    output: int = 0
    hash_ids: list[int] | None = None
    requests: list[Call] | None = None
    api_time: float | None = None
    think_time: float | None = None


class Session(msgspec.Struct):
    """One session."""

    id: str | int
    requests: list[Call]
    block_size: int = BLOCK_SIZE
    hash_id_scope: str = "local"


def sniff(head: bytes, name: str) -> bool:
    # Documents may be spread over lines or held in an array: look at the head as one line.
    keys = json_keys(head.replace(b"\n", b" ").lstrip(b" \r\t["))
    return {"requests", "hash_id_scope"} <= keys or {"hash_ids", "requests", "in", "out"} <= keys


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests session by session; the caller sorts them."""
    admit = Intake(options, accounting).admit
    time_scale, rate_scale = options.time_scale, options.rate_scale
    starts = _starts(options, accounting)
    blocks: BlockIds | None = None
    scope = ""
    accounting.note(
        "times within a session are those of the recorded server (workload.turns: answered waits for answers)"
    )
    for number, session in _sessions(source, accounting):
        if not 1 <= session.block_size <= MAX_BLOCK_SIZE:
            accounting.rows += 1
            accounting.drop("session: block_size out of range", number)
            continue
        if blocks is None:
            blocks = BlockIds(options.block_size or session.block_size)
            accounting.block_size = blocks.block_size
            scope = session.hash_id_scope
        calls = list(_flatten(session.requests, 0.0, accounting, number))
        other = session.hash_id_scope != scope
        if other or (options.block_size is None and session.block_size != blocks.block_size):
            accounting.rows += len(calls)
            accounting.drop("hash_id_scope or block_size not as in the first session", number, len(calls))
            continue
        if scope != "global":
            blocks.new_scope()
        start_s = next(starts)
        recorded: list[Recorded] = []
        for t, call in calls:
            index = accounting.rows
            accounting.rows += 1
            arrival_s = start_s + t * time_scale / rate_scale
            output_tokens = admit(number, arrival_s, call.prompt, call.output)
            if not output_tokens:
                continue
            if call.hash_ids is None:
                prompt: TokenRuns = (unknown_run(index, call.prompt),)
                accounting.without_ids += 1
            else:
                content = blocks.runs(call.hash_ids, call.prompt, index)
                if content is None:
                    accounting.drop(
                        f"number of hash_ids is not in / {blocks.block_size} rounded up or down", number
                    )
                    continue
                prompt = content
            accounting.requests += 1
            request = Request(
                f"{index:06d}",
                arrival_s,
                prompt,
                call.prompt,
                default_output(index, output_tokens),
                output_tokens,
                0,
                str(session.id),
            )
            recorded.append(Recorded(request, t, _later(t, call.api_time), _later(0.0, call.think_time)))
        yield from with_turns(recorded, time_scale=time_scale, grain_s=GRAIN_S)


def _later(since_s: float, seconds: float | None) -> float | None:
    """A time after another one; None where the recording has none that can be."""
    return None if seconds is None or not 0.0 <= seconds <= MAX_ARRIVAL_S else since_s + seconds


def _starts(options: ReadOptions, accounting: Accounting) -> Iterator[float]:
    if options.rate is None:
        accounting.note("sessions have no common clock: all start at 0 unless a rate is given")
        while True:
            yield 0.0
    accounting.rate_used = True
    accounting.note(f"sessions start as Poisson at {options.rate:g}/s, seed {options.seed}")
    yield from ArrivalProcess(options.rate).times(stream(options.seed, "arrivals"))


def _flatten(
    calls: list[Call], since: float, accounting: Accounting, number: int, depth: int = 0
) -> Iterator[tuple[float, Call]]:
    for call in calls:
        if call.requests is None:
            yield since + call.t, call
        elif depth < _MAX_DEPTH:
            yield from _flatten(call.requests, since + call.t, accounting, number, depth + 1)
        else:
            accounting.rows += 1
            accounting.drop("sub-agents nested too deeply", number)


def _sessions(source: Source, accounting: Accounting) -> Iterator[tuple[int, Session]]:
    """``(number of the document or line, session)``; a document that is none is one dropped row."""
    decode = msgspec.json.Decoder(Session).decode
    for number, content in _documents(source):
        try:
            session = decode(content)
        except BROKEN as error:
            accounting.rows += 1
            accounting.drop(f"session: {fault(error, content)}", number)
            continue
        yield number, session


def _documents(source: Source) -> Iterator[tuple[int, bytes]]:
    if source.archive:
        found = (content for _, content in source.members(_may_hold_sessions))
        yield from enumerate((piece for content in found for piece in _split(content)), start=1)
    elif source.head.lstrip().split(b"\n", 1)[0].strip() in (b"{", b"["):
        yield from enumerate(_split(source.document()), start=1)
    else:
        yield from source.lines()


def _may_hold_sessions(name: str) -> bool:
    return can_be_trace(name) and name.lower().endswith((".json", ".jsonl"))


def _split(content: bytes) -> list[bytes]:
    """A document by itself; otherwise its lines, or the items of its array."""
    start = content.lstrip()[:1]
    try:
        if start == b"[":
            return [bytes(item) for item in msgspec.json.decode(content, type=list[msgspec.Raw])]
        msgspec.json.decode(content, type=msgspec.Raw)
    except BROKEN:
        return [line for line in content.split(b"\n") if line.strip()]
    return [content]


FORMAT = TraceFormat(
    name="weka",
    summary="agent sessions as JSON: a directory, an archive or one session a line",
    sniff=sniff,
    read=read,
    keys=frozenset({"id", "block_size", "hash_id_scope", "requests", "t", "in", "out", "hash_ids"}),
    has_ids=True,
    archives=True,
    merges=True,
    documents=True,
    block_size=BLOCK_SIZE,
)
