"""Azure LLM inference traces: ``TIMESTAMP,ContextTokens,GeneratedTokens`` (and ``NumImages`` in 2025).

CSV with seven fractional digits, CRLF and no newline at the end. Published with Splitwise (ISCA 2024,
CC BY 4.0). The rows say nothing about shared content, so reuse is unknown, not zero.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.traces.accounting import Accounting
from kvplan.traces.dates import is_date
from kvplan.traces.formats.contract import (
    Intake,
    ReadOptions,
    TraceFormat,
    csv_columns,
    first_cell,
    is_numeral,
)
from kvplan.traces.formats.instants import MIXED_ZONES, TICKS_PER_S, Instants, dated
from kvplan.traces.formats.table import Table, parse_count
from kvplan.traces.request import Request
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import unknown_request

COLUMNS = ["timestamp", "contexttokens", "generatedtokens", "?numimages"]


def sniff(head: bytes, name: str) -> bool:
    if not set(COLUMNS[:3]) <= set(csv_columns(head)):
        return False
    first = first_cell(head, COLUMNS[0])
    return dated(first) or not (is_numeral(first) or is_date(first))


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests with arrivals in seconds since the first one."""
    table = Table(source, accounting, COLUMNS)
    admit = Intake(options, accounting).admit
    instants = Instants()
    to_ticks = instants.ticks
    time_scale, rate_scale = options.time_scale, options.rate_scale
    start: int | None = None
    images = 0
    for line, (stamp, context, generated, pictures) in table:
        index = accounting.rows - 1
        try:
            ticks = to_ticks(stamp)
        except ValueError:
            accounting.drop("TIMESTAMP is not YYYY-MM-DD hh:mm:ss.fffffff", line)
            continue
        try:
            prompt_tokens, output_tokens = parse_count(context), parse_count(generated)
            with_images = bool(pictures) and parse_count(pictures) > 0
        except ValueError:
            accounting.drop("token count is not a whole number", line)
            continue
        origin = ticks if start is None else start
        arrival_s = (ticks - origin) / TICKS_PER_S * time_scale / rate_scale
        # Rows may be out of order: one before the first row is fine, the sort will put it first.
        output_tokens = admit(line, abs(arrival_s), prompt_tokens, output_tokens)
        if not output_tokens:
            continue
        start = origin
        accounting.requests += 1
        accounting.without_ids += 1
        images += with_images
        yield unknown_request(index, arrival_s, prompt_tokens, output_tokens)
    if len(instants.zoned) > 1:
        accounting.note(MIXED_ZONES)
    if images:
        accounting.note(f"{images:,} requests carry images; only their ContextTokens are counted")


FORMAT = TraceFormat(
    name="azure",
    summary="CSV with dates to 100 ns and token counts",
    sniff=sniff,
    read=read,
    keys=frozenset({"timestamp", "contexttokens", "generatedtokens", "numimages"}),
    from_first=True,
    example="TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930,1000,20",
)
