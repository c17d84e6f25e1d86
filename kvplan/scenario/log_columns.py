"""Which column of a serving run's log is what: several spellings, and suffixes for the unit of a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvplan.errors import DataError

TIMES = {
    "arrival": ("arrival", "arrival_time", "start", "start_time", "request_time", "timestamp", "submit_time",
                "request_start", "queued_ts", "arrived_at", "arrival_timestamp", "request_start_time",
                "start_ts", "sent_at", "send_time", "created_at"),
    "ttft": ("ttft", "time_to_first_token", "first_token_latency", "first_token_delay"),
    "e2e": ("e2e", "e2e_latency", "latency", "e2el", "request_latency", "end_to_end", "total_time",
            "end_to_end_latency", "total_latency", "e2e_time"),
    "end": ("end", "end_time", "finish", "finish_time", "completed_at", "last_token_ts",
            "finished_at", "request_end", "request_end_time", "end_ts", "last_token_time"),
    "first": ("first_token", "first_token_ts", "first_token_time", "first_token_at", "first_token_timestamp"),
    "tpot": ("tpot", "time_per_output_token", "itl", "inter_token_latency"),
}  # fmt: skip
COUNTS = {
    "prompt_tokens": ("prompt_tokens", "input_tokens", "input_len", "prompt_len", "num_prompt_tokens",
                      "num_prefill_tokens", "isl", "num_input_tokens", "number_input_tokens", "prompt_length",
                      "input_length", "input_sequence_length", "input_toks", "prompt_toks"),
    "output_tokens": ("output_tokens", "completion_tokens", "output_len", "generated_tokens",
                      "num_generation_tokens", "num_decode_tokens", "osl", "num_output_tokens",
                      "number_output_tokens", "output_length", "output_sequence_length", "output_toks",
                      "completion_toks"),
    "cached_tokens": ("cached_tokens", "num_cached_tokens"),
}  # fmt: skip
UNITS = {"": 1.0} | {
    f"_{name}": factor
    for factor, names in (
        (1.0, ("s", "sec", "secs", "second", "seconds")), (1e-3, ("ms", "msec", "millis", "milliseconds")),
        (1e-6, ("us", "usec", "micros", "microseconds")), (1e-9, ("ns", "nsec", "nanos", "nanoseconds")),
    )
    for name in names
}  # fmt: skip
MOMENTS = ("arrival", "end", "first")
_INSTEAD = {"e2e": ("end", "tpot"), "ttft": ("first",)}
"""What a missing column follows from."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the log.

    Attributes:
        name: as it is looked up.
        unit: seconds (or tokens) that 1 stands for.
        labelled: whether the name says so.
    """

    name: str
    unit: float = 1.0
    labelled: bool = False


Columns = Mapping[str, Column]
"""Quantity to column."""


def plain_name(name: str) -> str:
    """A column's name as it is looked up: ``TTFT (ms)``, ``promptTokens`` and ``ttft_ms`` alike."""
    parted = re.sub(r"([a-z])([A-Z])", r"\1_\2", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")


def candidates(quantity: str, header: Sequence[str]) -> list[Column]:
    """Columns that may hold a quantity, the likeliest first."""
    if quantity in COUNTS:
        return [Column(spelling) for spelling in COUNTS[quantity] if spelling in header]
    return [
        Column(spelling + suffix, unit, bool(suffix))
        for spelling in TIMES[quantity]
        for suffix, unit in UNITS.items()
        if spelling + suffix in header
    ]


def columns_of(header: Sequence[str], where: str) -> dict[str, Column]:
    """The column of every quantity that the log has, without what nobody needs then.

    Raises:
        DataError: a column occurs twice, or is missing.
    """
    twice = sorted({name for name in header if name and header.count(name) > 1})
    found = {
        quantity: columns[0] for quantity in (*COUNTS, *TIMES) if (columns := candidates(quantity, header))
    }
    used = [column.name for column in found.values() if column.name in twice]
    if used:
        raise DataError(f"the log has two columns {used[0]}", where=where, hint="rename one of them")
    for quantity in ("arrival", "prompt_tokens", "output_tokens", "ttft", "e2e"):
        if quantity not in found and not any(other in found for other in _INSTEAD.get(quantity, ())):
            spellings = {**TIMES, **COUNTS}[quantity]
            raise DataError(
                f"the log has no column for {quantity}; it has {', '.join(header)[:200]}",
                where=where, hint=f"name it one of {', '.join(spellings)} (times may end in _s or _ms)",
            )  # fmt: skip
    for quantity, others in _INSTEAD.items():
        for other in others if quantity in found else ():
            found.pop(other, None)
    return found


def spelled_as_moments(header: Sequence[str]) -> bool:
    """Whether a header has a time of the first token, so that its rows may be requests."""
    return bool(candidates("ttft", header) or candidates("first", header))
