"""Which names of a trace's rows are what: found by spelling, refused where two could be meant and differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvplan.errors import DataError
from kvplan.traces.columns import ARRIVALS, COUNTS, UNITS, Column, counted, happened, timed
from kvplan.traces.formats.record_rows import Row

SAYS_ARRIVAL = (
    "arrival", "arrival_time", "arrived_at", "arrival_timestamp", "arrive_time", "arrived", "arrives",
    "arrival_times", "submit_time", "submitted_at", "sent_at", "send_time", "sent", "request_start",
    "request_start_time", "request_time", "request_timestamp", "request_start_timestamp", "received_at",
    "received", "receive_time", "queued_ts", "queued_at", "request_sent", "request_sent_at",
    "request_arrival", "request_arrival_time", "arrival_date", "request_received_ts", "request_received_at",
)  # fmt: skip
"""Names of the moment at which a request came, whatever else has a time."""
SAYS_TIME = (
    *(name for name in ARRIVALS if name not in SAYS_ARRIVAL),
    "time", "ts", "t", "date", "datetime", "date_time", "created", "creation_time", "event_time",
    "time_stamp", "begin", "begin_time", "started_at", "timestamp_start", "timestamp_start_unix",
    "start_time_unix", "start_time_unix_nano", "start_timestamp", "request_date", "when", "unix_time",
    "epoch",
)  # fmt: skip
BARE = {
    "prompt_tokens": ("prompt", "input", "context", "request", "in"),
    "output_tokens": ("output", "completion", "response", "generated", "generation", "answer", "out"),
}  # fmt: skip
"""Names that are counts where there are numbers under them, and texts elsewhere."""
SESSIONS = (
    "session_id", "session", "conversation_id", "conversation", "chat_id", "thread_id", "dialog_id",
    "dialogue_id", "provided_session_id", "poor_man_session_id", "gen_ai_conversation_id", "correlation_id",
    "x_correlation_id",
)  # fmt: skip
PRIORITIES = ("priority",)
BLOCKS = ("hash_ids", "block_hashes", "block_ids", "total_hashes", "prefix_hashes", "block_hash_ids")
TOKENS = ("prompt_token_ids", "input_token_ids", "input_tok_ids", "prompt_ids", "input_ids")
SIZES = ("block_size",)
CACHE_READ, CACHE_WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_LESS = {"output_token_count": ("output_sequence_length",), "request_length": ("input_length",)}
"""Names that are something else where another name is there: tokens without the reasoning before them."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of every quantity; None where a trace has none.

    Attributes:
        added: columns of tokens that are added to the prompt's.
    """

    prompt: str | None
    output: str
    arrival: Column | None
    session: str | None
    priority: str | None
    blocks: str | None
    tokens: str | None
    size: str | None
    added: tuple[str, ...] = ()


def cell_of(cells: Mapping[str, Any], name: str | None) -> Any:
    """Of a column that a trace may lack; the one without a name, as pandas writes its index, is none."""
    return None if name is None else cells.get(name)


def looks_like_requests(rows: Iterable[Row]) -> bool:
    """Whether rows have the lengths of prompts and answers under names that are known."""
    header = _header(rows)
    if "sys_prompt" in header:
        return False
    return bool(
        (_counts("prompt_tokens", header, rows) or _among(TOKENS, header))
        and _counts("output_tokens", header, rows)
    )


def columns_of(
    rows: Sequence[Row], repeated: set[str], names: dict[str, str], number: Callable[[Any], float], where: str
) -> Columns:
    """The columns by the first rows.

    Args:
        number: a cell as a number; raises ``ValueError``.

    Raises:
        DataError: a column is missing, is there twice, or two could be the same and differ.
    """
    header = _header(rows)
    found: dict[str, str | None] = {}
    for quantity, what in (("prompt_tokens", "a prompt's tokens"), ("output_tokens", "an answer's tokens")):
        spelled = _counts(quantity, header, rows)
        found[quantity] = _agreed(spelled, what, rows, names, number, where) if spelled else None
    tokens = _among(TOKENS, header)
    if found["output_tokens"] is None or (found["prompt_tokens"] is None and tokens is None):
        missing = "output_tokens" if found["output_tokens"] is None else "prompt_tokens"
        texts = [names.get(column.name, column.name) for column in counted(missing, header)]
        if texts:
            raise DataError(
                f"the column {texts[0]!r} does not hold a number of tokens in most of the first rows",
                where=where, hint="write whole numbers, like 1200",
            )  # fmt: skip
        raise DataError(
            f"no column for {missing}; the columns are {', '.join(header[:12])}", where=where,
            hint=f"name it one of {', '.join(COUNTS[missing][:6])}",
        )  # fmt: skip
    prompt, output = found["prompt_tokens"], found["output_tokens"]
    arrival = _arrival(header, rows, names, number, where)
    columns = Columns(
        prompt, output, arrival, _among(SESSIONS, header),
        _among(PRIORITIES, header), _among(BLOCKS, header), tokens, _among(SIZES, header),
        _cached_beside(prompt, header, rows, number, where),
    )  # fmt: skip
    used = [columns.prompt, columns.output, arrival.name if arrival else None, columns.session]
    for name in (name for name in used if name is not None):
        if name in repeated or any(name in row.twice for row in rows):
            raise DataError(
                f"the column {names.get(name, name)!r} is there more than once", where=where,
                hint="keep the one that is meant, or rename the others",
            )  # fmt: skip
    return columns


def _header(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.cells))


def _among(spellings: Sequence[str], header: Sequence[str]) -> str | None:
    return next((name for name in spellings if name in header), None)


def _counts(quantity: str, header: Sequence[str], rows: Iterable[Row]) -> list[str]:
    """Columns that may hold a number of tokens; bare names only where no other has."""
    spelled = [column.name for column in counted(quantity, header)]
    spelled = [name for name in spelled if not any(other in header for other in _LESS.get(name, ()))]
    spelled = [name for name in spelled if _has_numbers(name, rows)]
    return spelled or [
        name for name in BARE[quantity] if name in header and _has_numbers(name, rows, unless_empty=False)
    ]


def _has_numbers(name: str, rows: Iterable[Row], unless_empty: bool = True) -> bool:
    cells = [row.cells[name] for row in rows if row.cells.get(name) not in (None, "")]
    return sum(map(_numeral, cells)) * 2 > len(cells) if cells else unless_empty


def _numeral(cell: Any) -> bool:
    if isinstance(cell, bool):
        return False
    return isinstance(cell, (int, float)) or (isinstance(cell, str) and bool(_NUMBER.fullmatch(cell)))


_NUMBER = re.compile(r"[+-]?\d[\d.,\s']*([eE][+-]?\d{1,3})?")


def _agreed(
    spelled: Sequence[str], what: str, rows: Sequence[Row], names: dict[str, str],
    number: Callable[[Any], float], where: str,
) -> str:  # fmt: skip
    """The first of the columns, if the others say the same."""
    first = spelled[0]
    for other in spelled[1:]:
        for row in rows:
            try:
                one, two = number(row.cells.get(first)), number(row.cells.get(other))
            except ValueError:
                continue
            if one != two:
                raise DataError(
                    f"{names.get(first, first)!r} and {names.get(other, other)!r} could both be {what}, and "
                    f"differ: {one:g} and {two:g} in row {row.line:,}",
                    where=where, hint="remove or rename the one that is not meant",
                )  # fmt: skip
    return first


def _cached_beside(
    prompt: str | None, header: Sequence[str], rows: Sequence[Row], number: Callable[[Any], float], where: str
) -> tuple[str, ...]:
    """Columns of cached tokens that ``input_tokens`` does not count, as Anthropic's API says them."""
    beside = tuple(name for name in (CACHE_READ, CACHE_WRITTEN) if name in header)
    if prompt != "input_tokens" or not beside:
        return ()
    some = more = False
    for row in rows:
        try:
            cached = sum(number(row.cells.get(name) or 0) for name in beside)
            more |= cached > number(row.cells.get(prompt))
            some |= cached > 0
        except ValueError:
            continue
    if some and not more:
        raise DataError(
            f"whether input_tokens counts the tokens of {' and '.join(beside)} cannot be told", where=where,
            hint="write the whole prompt's tokens under prompt_tokens, and remove input_tokens",
        )  # fmt: skip
    return beside if more else ()


def _arrival(
    header: Sequence[str],
    rows: Sequence[Row],
    names: dict[str, str],
    number: Callable[[Any], float],
    where: str,
) -> Column | None:
    """The column of arrivals; a name that says so goes before one that only says that it is a time."""
    for named in (timed(SAYS_ARRIVAL, header), timed(SAYS_TIME, header), happened(header)):
        columns = [column for column in named if any(row.cells.get(column.name) for row in rows)] or named
        for other in columns[1:]:
            if not _parallel(columns[0], other, rows, number):
                first, second = (names.get(column.name, column.name) for column in (columns[0], other))
                raise DataError(
                    f"{first!r} and {second!r} could both be the arrival times, and differ", where=where,
                    hint="write day and time in one column, like 2024-05-10 13:00:00"
                    if {columns[0].name, other.name} == {"date", "time"}
                    else "remove or rename the one that is not meant",
                )  # fmt: skip
        if columns:
            return columns[0]
    return None


def _parallel(one: Column, two: Column, rows: Sequence[Row], number: Callable[[Any], float]) -> bool:
    """Whether two columns tell the same times, perhaps from another beginning or in another unit."""
    units = sorted(set(UNITS.values()))
    pairs = []
    for row in rows:
        a, b = row.cells.get(one.name), row.cells.get(two.name)
        if a == b:
            continue
        try:
            pairs.append((number(a), number(b)))
        except ValueError:
            return False
    if not pairs:
        return True
    known = one.labelled and two.labelled
    ratios = [two.unit / one.unit] if known else [x / y for x in units for y in units]
    return any(
        max(a - b * ratio for a, b in pairs) - min(a - b * ratio for a, b in pairs)
        <= 1e-3 * max(1.0, max(a for a, _ in pairs) - min(a for a, _ in pairs)) * 1e-2
        for ratio in set(ratios)
    )
