"""Writing requests as a trace: ``mooncake``, ``tokens`` or ``csv``, a line at a time.

Each writer returns what the format could not hold, as sentences; reading the result back gives the same
requests up to that.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable
from typing import IO, Any

import msgspec

from kvplan.errors import DataError, UnknownName
from kvplan.traces.block_chains import BlockChains
from kvplan.traces.request import OUTPUT_BASE, OUTPUT_STRIDE, Request, default_output, iterate_tokens
from kvplan.traces.tokenspace import is_unhashed, is_unknown

MAX_TOKENS_OF_A_LINE = 4_000_000
"""A prompt longer than this does not become a line of token ids (64 MiB is the longest line readers take)."""


def write_mooncake(requests: Iterable[Request], stream: IO[str], *, block_size: int = 512) -> list[str]:
    """One Mooncake line per request; block ids count distinct (prefix, block) pairs from 0.

    What was unknown stays unknown: prompts without ids get none, and ends without an id get none.

    Blocks of another size than Mooncake's 512 are said in a ``block_size`` on every line, which kvplan
    reads and other readers pass over.
    """
    chains = BlockChains(block_size)
    encode = msgspec.json.Encoder().encode
    losses = _Losses()
    latest: dict[str, str] = {}
    for request in requests:
        row: dict[str, Any] = {
            "timestamp": milliseconds(request.arrival_s),
            "input_length": request.prompt_tokens,
            "output_length": request.output_tokens,
        }
        if not is_unknown(request.prompt[0]):
            hashed = not is_unhashed(request.prompt[-1])
            row["hash_ids"] = chains.numbers(request.prompt, request.prompt_tokens, partial=hashed)
        if request.session is not None:
            row["session_id"] = request.session
            if request.follows is not None and request.follows[0] == latest.get(request.session):
                row["delay"] = milliseconds(request.follows[1])
            latest[request.session] = request.id
        if request.priority:
            row["priority"] = request.priority
        if block_size != 512:
            row["block_size"] = block_size
        losses.look(request, turns="delay" in row)
        stream.write(encode(row).decode() + "\n")
    found = losses.sentences()
    if block_size != 512:
        found.append(f"blocks of {block_size} tokens; readers other than kvplan must be told (512 is usual)")
    return found


def write_tokens(requests: Iterable[Request], stream: IO[str], *, block_size: int = 512) -> list[str]:
    """One line of token ids per request: large, and exact. ``block_size`` is not used.

    Raises:
        DataError: a prompt too long for a line.
    """
    encode = msgspec.json.Encoder().encode
    for index, request in enumerate(requests):
        if max(request.prompt_tokens, request.output_tokens) > MAX_TOKENS_OF_A_LINE:
            raise DataError(
                f"request {request.id} is too long to write out token by token",
                hint="convert to mooncake instead, which keeps the content of the blocks",
            )
        row: dict[str, Any] = {
            "id": request.id,
            "arrival": request.arrival_s,
            "prompt_token_ids": list(iterate_tokens(request.prompt)),
        }
        if request.output == default_output(index, request.output_tokens):
            row["output_length"] = request.output_tokens
        else:
            row["output_token_ids"] = list(iterate_tokens(request.output))
        if request.priority:
            row["priority"] = request.priority
        if request.session is not None:
            row["session_id"] = request.session
        if request.follows is not None:
            row["follows"], row["think_s"] = request.follows
        stream.write(encode(row).decode() + "\n")
    return []


def write_csv(requests: Iterable[Request], stream: IO[str], *, block_size: int = 512) -> list[str]:
    """Lengths only, in kvplan's own CSV columns. ``block_size`` is not used."""
    stream.write("arrival_s,prompt_tokens,output_tokens,priority,session\n")
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    losses = _Losses()
    for request in requests:
        losses.look(request, answers=True)
        session = (request.session or "").replace("\r", " ").replace("\n", " ")
        row = (request.arrival_s, request.prompt_tokens, request.output_tokens, request.priority, session)
        writer.writerow(row)
        stream.write(line.getvalue())
        line.seek(0)
        line.truncate()
    only = "lengths only: the content of prompts and answers is not kept, reuse becomes unknown"
    return [only, *losses.sentences()]


def reblocked(read: int, written: int) -> list[str]:
    """What ids of ``written`` tokens cannot say of content that was read as blocks of ``read`` tokens."""
    if written < read:
        unsaid = "what prompts share inside the first block that differs was never recorded"
        return [f"blocks of {read} tokens split into {written}: {unsaid}, so hits are a lower bound"]
    if written > read:
        return [f"blocks of {read} tokens merged into {written}: hits on a part of a block are lost"]
    return []


Writer = Callable[..., list[str]]

WRITERS: dict[str, Writer] = {"mooncake": write_mooncake, "tokens": write_tokens, "csv": write_csv}


def writer(name: str) -> Writer:
    """The writer of a format.

    Raises:
        UnknownName: kvplan does not write that format.
    """
    if name not in WRITERS:
        raise UnknownName("output format", name, WRITERS)
    return WRITERS[name]


def milliseconds(seconds: float) -> float | int:
    """The number whose thousandth is ``seconds``, or the nearest there is; an integer where it can be."""
    value = seconds * 1000
    whole = round(value)
    if whole < 1 << 53 and whole / 1000 == seconds:
        return whole
    for near in (value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf)):
        if near / 1000 == seconds:
            return near
    return value


class _Losses:
    """Counts what the lines of a format cannot say."""

    def __init__(self) -> None:
        self._answers = self._turns = 0

    def look(self, request: Request, *, answers: bool = False, turns: bool = False) -> None:
        """A request was written, with its answer's content and the answer it waited for, or without."""
        start = request.output[0][0]
        if not answers and (start < OUTPUT_BASE or start % OUTPUT_STRIDE or len(request.output) > 1):
            self._answers += 1
        if not turns and request.follows is not None:
            self._turns += 1

    def sentences(self) -> list[str]:
        """What is lost."""
        found = []
        if self._answers:
            lost = f"the content of {self._answers:,} answers is not kept (the format has no place for it)"
            found.append(f"{lost}: later prompts that repeat them cannot hit them")
        if self._turns:
            found.append(f"whose answer {self._turns:,} turns waited for is not kept")
        return found
