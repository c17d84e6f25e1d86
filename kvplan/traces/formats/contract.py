"""What a trace format is: a name, how to recognise it, how to read it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from kvplan.errors import DataError, UsageError
from kvplan.traces.accounting import Accounting
from kvplan.traces.request import Request
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import MAX_OUTPUT_TOKENS, MAX_PROMPT_TOKENS, MAX_REQUESTS

MAX_ARRIVAL_S = 1e10
"""Latest arrival a reader accepts, in seconds (three centuries)."""

ZERO_OUTPUT = "zero output tokens"
"""Why a row without an answer is dropped."""

NO_COUNT = "token count is not a whole number"
NO_PRIORITY = "priority is not a whole number"
PRIORITIES = "priorities are whole numbers, and lower ones are served first: write 0 for high and 1 for low"

MAX_BLOCK_SIZE = 1 << 20
"""Most tokens a block id may stand for."""


BROKEN = (msgspec.MsgspecError, RecursionError, ValueError)
"""What decoding JSON raises: it is none, is nested too deeply, or is no UTF-8, which is looked at last."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a trace.

    Attributes:
        time_scale: factor on every time of the trace, applied right after the conversion to seconds.
        rate_scale: divides every time after that; 2.0 means twice the request rate.
        block_size: tokens per block id, where the format does not say it itself.
        strict: refuse the first bad row instead of dropping and counting it.
        clamp_outputs: raise zero-token answers to one token instead of dropping the row.
        rate: requests (for weka: sessions) per second of the Poisson process that stands in for arrival
            times a trace does not have; without it they all start at 0.
        seed: seed of that process.
    """

    time_scale: float = 1.0
    rate_scale: float = 1.0
    block_size: int | None = None
    strict: bool = False
    clamp_outputs: bool = False
    rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("time_scale", "rate_scale", "rate"):
            value = getattr(self, name)
            if value is not None and not 1e-9 <= value <= 1e9:
                raise UsageError(f"{name} must be between 1e-9 and 1e9, not {value!r}")
        if self.block_size is not None and not 1 <= self.block_size <= MAX_BLOCK_SIZE:
            raise UsageError(f"block_size must be between 1 and {MAX_BLOCK_SIZE:,}, not {self.block_size}")


Reader: TypeAlias = Callable[[Source, ReadOptions, Accounting], Iterator[Request]]


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """One format of traces.

    Attributes:
        name: what users call it.
        summary: one line for lists and help.
        sniff: whether a head of the content (64 KiB, perhaps cut) or the name of the file looks like it.
        read: yields requests in the order of the file, counting into the accounting as it goes.
        keys: field or column names that tell the format, for suggesting near ones.
        has_ids: whether prompts' content is known, so that reuse can be computed.
        archives: may be spread over the files of a directory or archive; others are read from one.
        merges: the file's order is not by time (one session after another); sort before use.
        in_ms: times are numbers of milliseconds; many files have seconds there.
        from_first: times are absolute (dates); the first arrival becomes 0.
        block_size: tokens per block id, unless overridden or said by the file.
        documents: reads JSON that is no row a line (arrays, objects over several lines) by itself.
        example: the smallest file a user would write, for formats that are written by hand.
    """

    name: str
    summary: str
    sniff: Callable[[bytes, str], bool]
    read: Reader
    keys: frozenset[str]
    has_ids: bool = False
    archives: bool = False
    merges: bool = False
    from_first: bool = False
    in_ms: bool = False
    block_size: int | None = None
    documents: bool = False
    example: str = ""


@dataclass(slots=True)
class Intake:
    """The checks every row goes through, whatever its format; counts what it refuses."""

    options: ReadOptions
    accounting: Accounting
    _clamp: bool = field(init=False)

    def __post_init__(self) -> None:
        self._clamp = self.options.clamp_outputs

    def admit(self, line: int, arrival_s: float, prompt_tokens: int, output_tokens: int) -> int:
        """Tokens the answer will have, or 0 when the row was dropped (and counted)."""
        accounting = self.accounting
        if not 0.0 <= arrival_s <= MAX_ARRIVAL_S:
            if accounting.far_arrival_s is None and MAX_ARRIVAL_S < arrival_s < math.inf:
                accounting.far_arrival_s = arrival_s * self.options.rate_scale
            accounting.drop("arrival time negative, not finite or beyond 1e10 s", line)
            return 0
        if not 1 <= prompt_tokens <= MAX_PROMPT_TOKENS:
            accounting.drop(_length_fault("prompt", prompt_tokens, MAX_PROMPT_TOKENS), line)
            return 0
        if 1 <= output_tokens <= MAX_OUTPUT_TOKENS:
            if accounting.rows > MAX_REQUESTS:
                accounting.drop(f"beyond {MAX_REQUESTS:,} rows", line)
                return 0
            return output_tokens
        if output_tokens == 0 and self._clamp:
            accounting.clamped_outputs += 1
            return 1
        accounting.drop(_length_fault("output", output_tokens, MAX_OUTPUT_TOKENS), line)
        return 0


def check_priority(cell: object, where: str) -> None:
    """Refuses a priority in words: dropped rows would be those of one kind of request.

    Raises:
        DataError: naming the word, and what to write.
    """
    if isinstance(cell, str) and any(map(str.isalpha, cell)) and not is_numeral(cell.strip()):
        raise DataError(f"the priority {cell.strip()[:40]!r} is a word", where=where, hint=PRIORITIES)


def _length_fault(what: str, tokens: int, most: int) -> str:
    if tokens == 0:
        return f"zero {what} tokens"
    if tokens < 0:
        return f"negative {what} tokens"
    return f"more than {most:,} {what} tokens"


_KEY = re.compile(rb'"([A-Za-z_][A-Za-z0-9_.]{0,60})"\s*:')


def json_keys(head: bytes, lines: int = 5) -> set[str]:
    """Names used as JSON keys in the first lines of a head, which may be cut anywhere."""
    found: set[str] = set()
    for line in head.split(b"\n")[:lines]:
        if line.lstrip()[:1] == b"{":
            found.update(match.decode() for match in _KEY.findall(line))
    return found


def csv_columns(head: bytes) -> list[str]:
    """The first line that is not blank as column names, trimmed and in lower case."""
    line = first_line(head)
    return [name.strip().strip('"').lower() for name in line.split(",")] if line else []


def first_line(head: bytes) -> str:
    """The first line that is not blank, trimmed."""
    return next((line.decode("utf-8", "replace").strip() for line in head.split(b"\n") if line.strip()), "")


def top_keys(head: bytes, lines: int = 5) -> set[str]:
    """Names of the objects in the first lines themselves, where a line is whole; of cut lines, all names."""
    found: set[str] = set()
    for line in head.split(b"\n")[:lines]:
        try:
            found.update(msgspec.json.decode(line, type=dict[str, msgspec.Raw]))
        except BROKEN:
            found |= json_keys(line)
    return found


def first_cell(head: bytes, name: str) -> str:
    """What the first row of a table with commas has in a column; empty without a row or the column."""
    lines = [line for line in head.split(b"\n")[:50] if line.strip()][:2]
    columns = csv_columns(head)
    if len(lines) < 2 or name not in columns:
        return ""
    cells = lines[1].decode("utf-8", "replace").split(",")
    place = columns.index(name)
    return cells[place].strip().strip('"') if place < len(cells) else ""


def is_numeral(text: str) -> bool:
    """Whether a cell is a number."""
    return _NUMERAL.fullmatch(text) is not None


_NUMERAL = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
