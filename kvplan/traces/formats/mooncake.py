"""Mooncake JSONL: ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``, one request a line.

Each id names a block of 512 tokens *and* everything before it. Published with "Mooncake: Trading More
Storage for Less Computation" (FAST 2025). aiperf's superset is understood too: ``session_id``, and
``delay`` (ms) in place of ``timestamp`` for the later turns of a session; and kvplan's own ``block_size``
for blocks that are not of 512 tokens. With a rate, rows without any times arrive as a Poisson process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from kvplan.traces.accounting import NO_TIME, Accounting
from kvplan.traces.arrivals import drawn_arrivals
from kvplan.traces.columns import timed
from kvplan.traces.formats.contract import (
    MAX_BLOCK_SIZE,
    Intake,
    ReadOptions,
    TraceFormat,
    json_keys,
    top_keys,
)
from kvplan.traces.formats.granularity import Granularity
from kvplan.traces.formats.jsonl import Priority, note_unread, rows
from kvplan.traces.formats.record_columns import SAYS_ARRIVAL, SAYS_TIME
from kvplan.traces.request import Request, TokenRuns, default_output
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import BlockIds, unknown_run

BLOCK_SIZE = 512

_TIMED_AFTER_ALL = "a timestamp, which the first rows do not have"


class Row(msgspec.Struct, gc=False):
    """One line. ``input_length`` is optional because aiperf allows rows that carry text instead."""

    output_length: int = 0
    timestamp: float | None = None
    input_length: int | None = None
    hash_ids: list[int] | None = None
    session_id: str | int | None = None
    delay: float | None = None
    priority: Priority = 0
    block_size: int | None = None


_OTHERWISE = re.compile(rb'"timestamp"\s*:\s*"|"(?:input|output)_length"\s*:\s*\d+\.')
"""Dates, and lengths with decimal points, as pandas writes them: other readers' business."""


def sniff(head: bytes, name: str) -> bool:
    if _OTHERWISE.search(head.split(b"\n", 1)[0]):
        return False
    keys = top_keys(head)
    if "timestamp" not in keys and timed((*SAYS_ARRIVAL, *SAYS_TIME), list(keys)):
        return False
    return {"input_length", "output_length"} <= keys and not json_keys(head) & {"chat_id", "sys_prompt"}


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order of the file; token content is exact at the granularity of the blocks."""
    admit = Intake(options, accounting).admit
    blocks: BlockIds | None = None
    misfits = Granularity()
    time_scale, rate_scale = options.time_scale, options.rate_scale
    process: Iterator[float] | None = None
    session_s: dict[str, tuple[float, str]] = {}
    note_unread(source, accounting, Row)
    for line, row in rows(source, accounting, Row):
        index = accounting.rows - 1
        if row.input_length is None:
            accounting.drop('no "input_length" (text needs a tokenizer)', line)
            continue
        drawn = False
        session = None if row.session_id is None else str(row.session_id)
        if row.timestamp is None and process is None and options.rate is not None and not accounting.requests:
            process = drawn_arrivals(options.rate, options.seed, accounting)
        if row.timestamp is not None and process is not None:
            accounting.drop(_TIMED_AFTER_ALL, line)
            continue
        if row.timestamp is not None:
            arrival_s = row.timestamp / 1000 * time_scale / rate_scale
        elif row.delay is not None and session in session_s:
            arrival_s = session_s[session][0] + row.delay / 1000 * time_scale / rate_scale
            accounting.note(
                "turns with a delay arrive that long after the turn before, answered or not (workload.turns: "
                "answered waits for the answer)"
            )
        elif process is not None:
            arrival_s, drawn = 0.0, True
        else:
            accounting.drop(NO_TIME, line)
            continue
        prompt_tokens = row.input_length
        output_tokens = admit(line, arrival_s, prompt_tokens, row.output_length)
        if not output_tokens:
            continue
        # An empty list says no more than none, unless the prompt is shorter than a block.
        if row.hash_ids is None or (not row.hash_ids and prompt_tokens >= (options.block_size or BLOCK_SIZE)):
            prompt: TokenRuns = (unknown_run(index, prompt_tokens),)
            accounting.without_ids += 1
        else:
            if blocks is None:
                said = row.block_size if row.block_size and 1 <= row.block_size <= MAX_BLOCK_SIZE else None
                blocks = BlockIds(options.block_size or said or BLOCK_SIZE)
                accounting.block_size = blocks.block_size
            content = blocks.runs(row.hash_ids, prompt_tokens, index)
            if content is None:
                misfits.see(len(row.hash_ids), prompt_tokens)
                accounting.drop(
                    f"number of hash_ids is not input_length / {blocks.block_size} rounded up or down", line
                )
                continue
            prompt = content
        if drawn and process is not None:
            arrival_s = next(process)
        name, follows = f"{index:06d}", None
        if session is not None:
            if row.delay is not None and session in session_s and row.delay >= 0.0:
                follows = session_s[session][1], row.delay / 1000 * time_scale
            session_s[session] = arrival_s, name
        accounting.requests += 1
        yield Request(
            name,
            arrival_s,
            prompt,
            prompt_tokens,
            default_output(index, output_tokens),
            output_tokens,
            row.priority,
            session,
            follows,
        )
    if advice := misfits.advice():
        accounting.note(advice)


FORMAT = TraceFormat(
    name="mooncake",
    summary="JSONL with block ids, times in ms (also aiperf's session_id and delay)",
    sniff=sniff,
    read=read,
    keys=frozenset({"timestamp", "input_length", "output_length", "hash_ids"}),
    has_ids=True,
    in_ms=True,
    block_size=BLOCK_SIZE,
    example='{"timestamp": 1500, "input_length": 1000, "output_length": 20, "hash_ids": [7, 8]}',
)
