"""CSV tables of lengths: vidur's, splitwise-sim's and ``arrival_s,prompt_tokens,output_tokens``.

A table without a column of times (vidur's length-only files) needs an arrival process: with a rate they
arrive as Poisson, without one all at 0. Nothing is said about content, so reuse is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from kvplan.errors import DataError
from kvplan.traces.accounting import Accounting
from kvplan.traces.arrivals import drawn_arrivals
from kvplan.traces.columns import plain_name, timed
from kvplan.traces.dates import is_date
from kvplan.traces.formats.contract import (
    NO_COUNT,
    NO_PRIORITY,
    Intake,
    ReadOptions,
    TraceFormat,
    check_priority,
    csv_columns,
    first_cell,
    first_line,
)
from kvplan.traces.formats.record_columns import BLOCKS, SAYS_ARRIVAL, SAYS_TIME, SESSIONS, TOKENS
from kvplan.traces.formats.table import Table, named, parse_count, parse_number
from kvplan.traces.request import Request
from kvplan.traces.settings import setting
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import unknown_request


class Dialect(NamedTuple):
    """Column names of one tool; times in seconds."""

    arrival: str
    prompt: str
    output: str
    priority: str = "-"
    session: str = "-"


DIALECTS = (
    Dialect("arrival_s", "prompt_tokens", "output_tokens", "priority", "session"),
    Dialect("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    Dialect("arrival_timestamp", "prompt_size", "token_size"),
)


def _dialect(columns: list[str]) -> Dialect | None:
    for dialect in DIALECTS:
        if dialect.prompt in columns and dialect.output in columns:
            return dialect
    return None


TIMES = re.compile(
    r"time|arriv|date|start|beg[ai]n|creat|receiv|submit|queue|issued|clock|epoch|when|elapsed|offset|delay"
    r"|(?:\A|[^a-z])(?:t|ts|at|sent|s|secs?|seconds|ms|millis|us|micros|ns|nanos)(?:\Z|[^a-z])"
)
"""Names under which a table may have its times: what is done at them, or the unit they are in."""

DURATIONS = re.compile(r"latency|duration|ttft|tpot|itl|e2e|think")
"""Names of times that something took."""


AS_DATES = "dates are read under the columns TIMESTAMP,ContextTokens,GeneratedTokens"


def _refuse_other_times(name: str, dialect: Dialect, columns: list[str]) -> None:
    """Times that are there are not replaced by 0 because their column is called otherwise."""
    named = [column for column in columns if TIMES.search(column) and not DURATIONS.search(column)]
    if named:
        raise DataError(
            f"no column {dialect.arrival!r}; are the arrival times in {' or '.join(map(repr, named[:3]))}?",
            where=f"{name}:1",
            hint=f"rename that column to {dialect.arrival} (in seconds; milliseconds need a time scale: "
            f"{setting('time_scale', 0.001)}), or give a rate to draw the times with (--rate)",
        )


def _says_more(columns: list[str]) -> bool:
    """Whether a table of our own names has sessions or contents under others, which ``records`` reads."""
    names = {plain_name(column) for column in columns} - {DIALECTS[0].session}
    return not names.isdisjoint((*SESSIONS, *BLOCKS, *TOKENS))


def sniff(head: bytes, name: str) -> bool:
    columns = csv_columns(head)
    dialect = _dialect(columns)
    if dialect is None or (dialect is DIALECTS[0] and _says_more(columns)):
        return False
    if dialect.arrival in columns:
        return not is_date(first_cell(head, dialect.arrival))
    return not timed((*SAYS_ARRIVAL, *SAYS_TIME), [plain_name(name) for name in first_line(head).split(",")])


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order of the file."""
    dialect = _dialect(csv_columns(source.head)) or DIALECTS[0]
    wanted = [f"?{dialect.arrival}", dialect.prompt, dialect.output]
    table = Table(source, accounting, [*wanted, f"?{dialect.priority}", f"?{dialect.session}"])
    if others := named([name for name in dict.fromkeys(table.columns) if name and name not in dialect]):
        accounting.note(f"not read: {others}")
    admit = Intake(options, accounting).admit
    time_scale, rate_scale = options.time_scale, options.rate_scale
    timed = dialect.arrival in table.columns
    if not timed and options.rate is None:
        _refuse_other_times(source.name, dialect, table.columns)
    process: Iterator[float] | None = None
    if not timed and options.rate is not None:
        process = drawn_arrivals(options.rate, options.seed, accounting)
    elif not timed:
        accounting.note("no arrival times in the trace: all requests arrive at 0 unless a rate is given")
    for line, (arrival, prompt, output, rank, session) in table:
        index = accounting.rows - 1
        try:
            prompt_tokens, output_tokens = parse_count(prompt), parse_count(output)
        except ValueError:
            accounting.drop(NO_COUNT, line)
            continue
        try:
            priority = parse_count(rank) if rank else 0
        except ValueError:
            check_priority(rank, f"{source.name}:{line}")
            accounting.drop(NO_PRIORITY, line)
            continue
        try:
            seconds = parse_number(arrival) if timed else 0.0
        except ValueError:
            found = f"a date: {AS_DATES}" if is_date(arrival) else "not a number"
            accounting.drop(f"{dialect.arrival} is {found}", line)
            continue
        arrival_s = seconds * time_scale / rate_scale
        output_tokens = admit(line, arrival_s, prompt_tokens, output_tokens)
        if not output_tokens:
            continue
        if process is not None:
            arrival_s = next(process)
        accounting.requests += 1
        accounting.without_ids += 1
        yield unknown_request(index, arrival_s, prompt_tokens, output_tokens, priority, session or None)


FORMAT = TraceFormat(
    name="csv",
    summary="CSV of lengths: vidur, splitwise-sim or arrival_s,prompt_tokens,output_tokens",
    sniff=sniff,
    read=read,
    keys=frozenset({"arrival_s", "prompt_tokens", "output_tokens"}),
    example="arrival_s,prompt_tokens,output_tokens,priority,session\n1.5,1000,20,0,a",
)
