"""BurstGPT CSV, versions 1 to 3: seconds from the first midnight, tokens per request, a model name.

Columns are found by name, because version 3 inserts ``Session ID`` and ``Elapsed time`` in the middle. A
session id does not imply that the next prompt extends the last, so reuse is unknown. About 8 % of the
published rows have zero tokens; they are dropped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kvplan.traces.accounting import Accounting
from kvplan.traces.dates import is_date
from kvplan.traces.formats.contract import Intake, ReadOptions, TraceFormat, csv_columns, first_cell
from kvplan.traces.formats.table import Table, parse_count, parse_number
from kvplan.traces.request import Request
from kvplan.traces.source import Source
from kvplan.traces.tokenspace import unknown_request

COLUMNS = ["timestamp", "request tokens", "response tokens", "?model", "?session id"]
_MAX_MODELS = 20


def sniff(head: bytes, name: str) -> bool:
    return set(COLUMNS[:3]) <= set(csv_columns(head)) and not is_date(first_cell(head, COLUMNS[0]))


def read(source: Source, options: ReadOptions, accounting: Accounting) -> Iterator[Request]:
    """Requests in the order of the file; arrivals as written (the caller moves the first to 0)."""
    table = Table(source, accounting, COLUMNS)
    admit = Intake(options, accounting).admit
    time_scale, rate_scale = options.time_scale, options.rate_scale
    models: Counter[str] = Counter()
    for line, (stamp, asked, answered, model, session) in table:
        index = accounting.rows - 1
        try:
            seconds = parse_number(stamp)
        except ValueError:
            accounting.drop("Timestamp is not a number", line)
            continue
        try:
            prompt_tokens, output_tokens = parse_count(asked), parse_count(answered)
        except ValueError:
            accounting.drop("token count is not a whole number", line)
            continue
        arrival_s = seconds * time_scale / rate_scale
        output_tokens = admit(line, arrival_s, prompt_tokens, output_tokens)
        if not output_tokens:
            continue
        accounting.requests += 1
        accounting.without_ids += 1
        models[model if model in models or len(models) < _MAX_MODELS else "other"] += 1
        yield unknown_request(index, arrival_s, prompt_tokens, output_tokens, 0, session.strip() or None)
    if len(models) > 1:
        shares = ", ".join(f"{name} {count:,}" for name, count in models.most_common(6))
        accounting.note(f"requests of several models are mixed: {shares}")


FORMAT = TraceFormat(
    name="burstgpt",
    summary="CSV of ChatGPT and GPT-4 traffic, versions 1 to 3",
    sniff=sniff,
    read=read,
    keys=frozenset({"timestamp", "model", "request tokens", "response tokens", "total tokens", "log type"}),
    from_first=True,
)
