"""Token JSONL: ``id``, ``arrival`` (s), ``prompt_token_ids``, ``output_length`` or ``output_token_ids``.

The only format here that says every token, so the only one with exact reuse at any block size and of
answers by later prompts. ``priority``, ``session_id`` and, of turns that waited for an answer, ``follows``
(the id of that request) and ``think_s`` are optional.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvplan.traces.accounting import Accounting
from kvplan.traces.formats.contract import MAX_ARRIVAL_S, Intake, ReadOptions, TraceFormat, json_keys
from kvplan.traces.formats.jsonl import Priority, note_unread, rows
from kvplan.traces.request import Request, default_output, runs_of
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import is_unknown

_MAX_TOKEN_ID = (1 << 63) - 1


class Row(msgspec.Struct, gc=False):
    """One line; exactly one of ``output_length`` and ``output_token_ids``."""

    arrival: float
    prompt_token_ids: list[int]
    id: str | int | None = None
    output_length: int | None = None
    output_token_ids: list[int] | None = None
    priority: Priority = 0
    session_id: str | int | None = None
    follows: str | int | None = None
    think_s: float | None = None


def sniff(head: bytes, name: str) -> bool:
    return "prompt_token_ids" in json_keys(head)


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order of the file. Memory grows with the set of ids, which must not repeat."""
    admit = Intake(options, accounting).admit
    time_scale, rate_scale = options.time_scale, options.rate_scale
    seen: set[str] = set()
    note_unread(source, accounting, Row)
    for line, row in rows(source, accounting, Row):
        index = accounting.rows - 1
        answer = row.output_token_ids
        if (answer is None) == (row.output_length is None):
            accounting.drop("needs exactly one of output_length and output_token_ids", line)
            continue
        output_tokens = row.output_length if answer is None else len(answer)
        assert output_tokens is not None
        arrival_s = row.arrival * time_scale / rate_scale
        output_tokens = admit(line, arrival_s, len(row.prompt_token_ids), output_tokens)
        if not output_tokens:
            continue
        if not _all_ids(row.prompt_token_ids) or (answer and not _all_ids(answer)):
            accounting.drop("token id negative or beyond 63 bits", line)
            continue
        name = f"{index:06d}" if row.id is None else str(row.id)
        if name in seen:
            accounting.drop("id used before", line)
            continue
        seen.add(name)
        accounting.requests += 1
        prompt = runs_of(row.prompt_token_ids)
        accounting.without_ids += is_unknown(prompt[0])  # converted from a trace of lengths alone
        yield Request(
            name,
            arrival_s,
            prompt,
            len(row.prompt_token_ids),
            runs_of(answer) if answer else default_output(index, output_tokens),
            output_tokens,
            row.priority,
            None if row.session_id is None else str(row.session_id),
            _follows(row, time_scale),
        )


def _follows(row: Row, time_scale: float) -> tuple[str, float] | None:
    """Whose answer it waited for; ``None`` where the row says nothing that can be."""
    if row.follows is None or row.think_s is None or not 0.0 <= row.think_s <= MAX_ARRIVAL_S:
        return None
    return str(row.follows), row.think_s * time_scale


def _all_ids(tokens: list[int]) -> bool:
    return min(tokens) >= 0 and max(tokens) <= _MAX_TOKEN_ID


FORMAT = TraceFormat(
    name="tokens",
    summary="JSONL with every token id, times in s",
    sniff=sniff,
    read=read,
    keys=frozenset({"id", "arrival", "prompt_token_ids", "output_length", "output_token_ids", "priority"}),
    has_ids=True,
    example='{"id": "a", "arrival": 1.5, "prompt_token_ids": [5, 6, 7], "output_length": 20}',
)
