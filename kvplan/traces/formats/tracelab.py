"""TraceLab round traces: JSONL of coding-agent rounds with a provider's own count of reused tokens.

A round's request leaves when its last input (user message or tool result) is there. ``prefix_tokens`` is
what the provider says it had cached: an outcome, not content, so reuse stays unknown to a simulation and
the reported share is a note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from kvplan.traces.accounting import Accounting
from kvplan.traces.formats.contract import Intake, ReadOptions, TraceFormat, json_keys
from kvplan.traces.formats.instants import TICKS_PER_S, Instants
from kvplan.traces.formats.jsonl import rows
from kvplan.traces.request import Request, default_output
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import unknown_run
from kvplan.traces.turns import Recorded, with_turns

_INPUTS = ("user_message", "tool_result")


class Event(msgspec.Struct, gc=False):
    """Something that happened in a round."""

    event_type: str
    timestamp: str


class Row(msgspec.Struct, gc=False):
    """One round."""

    session_id: str
    input_tokens_total: int
    output_tokens: int
    timing_events: list[Event]
    prefix_tokens: int | None = None
    newly_append_tokens: int | None = None


def sniff(head: bytes, name: str) -> bool:
    return {"input_tokens_total", "timing_events"} <= json_keys(head)


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order of the file, session after session."""
    admit = Intake(options, accounting).admit
    to_ticks = Instants().ticks
    start: int | None = None
    asked = cached = unbalanced = 0
    recorded: list[Recorded] = []
    for line, row in rows(source, accounting, Row):
        index = accounting.rows - 1
        events = [event for event in row.timing_events if event.event_type in _INPUTS]
        events = events or row.timing_events[:1]
        try:
            ticks = max(to_ticks(event.timestamp) for event in events)
        except ValueError:
            accounting.drop("no event with a time that can be read", line)
            continue
        origin = ticks if start is None else start
        arrival_s = (ticks - origin) / TICKS_PER_S * options.time_scale / options.rate_scale
        output_tokens = admit(line, abs(arrival_s), row.input_tokens_total, row.output_tokens)
        if not output_tokens:
            continue
        start = origin
        asked += row.input_tokens_total
        cached += row.prefix_tokens or 0
        if row.prefix_tokens is not None and row.newly_append_tokens is not None:
            unbalanced += row.prefix_tokens + row.newly_append_tokens != row.input_tokens_total
        accounting.requests += 1
        accounting.without_ids += 1
        request = Request(
            f"{index:06d}",
            arrival_s,
            (unknown_run(index, row.input_tokens_total),),
            row.input_tokens_total,
            default_output(index, output_tokens),
            output_tokens,
            0,
            row.session_id,
        )
        sent_s = (ticks - origin) / TICKS_PER_S
        recorded.append(Recorded(request, sent_s, _answered_s(row, sent_s, origin, to_ticks)))
    yield from with_turns(recorded, time_scale=options.time_scale)
    if cached:
        accounting.note(f"provider-reported cached tokens: {cached:,} of {asked:,} ({cached / asked:.1%})")
    if unbalanced:
        accounting.note(f"{unbalanced:,} rounds where prefix + appended tokens are not the total")


def _answered_s(row: Row, sent_s: float, origin: int, to_ticks: Callable[[str], int]) -> float | None:
    """When the last part of the answer came, if any part of it has a time."""
    found = []
    for event in row.timing_events:
        if event.event_type not in _INPUTS:
            try:
                found.append((to_ticks(event.timestamp) - origin) / TICKS_PER_S)
            except ValueError:
                continue
    return max(found) if found and max(found) >= sent_s else None


FORMAT = TraceFormat(
    name="tracelab",
    summary="JSONL of coding-agent rounds with provider-reported cache hits",
    sniff=sniff,
    read=read,
    keys=frozenset({"session_id", "round_index", "input_tokens_total", "prefix_tokens", "timing_events"}),
    merges=True,
    from_first=True,
)
