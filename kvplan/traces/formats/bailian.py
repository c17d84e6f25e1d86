"""Bailian (Qwen) JSONL: ``chat_id``, ``parent_chat_id``, times in s, ids of 16-token blocks.

A root has -1 or null for its parent. The last id may stand for a partial block. A turn's session is its
root's ``chat_id``; a parent may lie outside the file, and then starts a session of its own here.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvplan.traces.accounting import Accounting
from kvplan.traces.formats.contract import Intake, ReadOptions, TraceFormat, json_keys
from kvplan.traces.formats.granularity import Granularity
from kvplan.traces.formats.jsonl import rows
from kvplan.traces.request import Request, default_output
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import BlockIds

BLOCK_SIZE = 16


class Row(msgspec.Struct, gc=False):
    """One line."""

    chat_id: int
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]
    parent_chat_id: int | None = -1


def sniff(head: bytes, name: str) -> bool:
    return {"chat_id", "input_length", "output_length"} <= json_keys(head)


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order of the file. Memory grows with the number of chats (one integer each)."""
    admit = Intake(options, accounting).admit
    blocks = BlockIds(options.block_size or BLOCK_SIZE)
    accounting.block_size = blocks.block_size
    time_scale, rate_scale = options.time_scale, options.rate_scale
    roots: dict[int, int] = {}
    orphans = 0
    misfits = Granularity()
    for line, row in rows(source, accounting, Row):
        index = accounting.rows - 1
        arrival_s = row.timestamp * time_scale / rate_scale
        output_tokens = admit(line, arrival_s, row.input_length, row.output_length)
        if not output_tokens:
            continue
        prompt = blocks.runs(row.hash_ids, row.input_length, index)
        if prompt is None:
            misfits.see(len(row.hash_ids), row.input_length)
            accounting.drop(
                f"number of hash_ids is not input_length / {blocks.block_size} rounded up or down", line
            )
            continue
        root = row.chat_id
        if row.parent_chat_id not in (-1, None):
            orphans += row.parent_chat_id not in roots
            root = roots.get(row.parent_chat_id, row.parent_chat_id)
        roots[row.chat_id] = root
        accounting.requests += 1
        yield Request(
            f"{index:06d}",
            arrival_s,
            prompt,
            row.input_length,
            default_output(index, output_tokens),
            output_tokens,
            0,
            str(root),
        )
    if advice := misfits.advice():
        accounting.note(advice)
    if orphans:
        accounting.note(f"{orphans:,} turns follow a chat that is not in the file")


FORMAT = TraceFormat(
    name="bailian",
    summary="JSONL of chat turns with ids of 16-token blocks, times in s",
    sniff=sniff,
    read=read,
    keys=frozenset({"chat_id", "parent_chat_id", "timestamp", "input_length", "output_length", "hash_ids"}),
    has_ids=True,
    block_size=BLOCK_SIZE,
    example=(
        '{"chat_id": 1, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 20, "output_length": 9, '
        '"hash_ids": [7, 8]}'
    ),
)
