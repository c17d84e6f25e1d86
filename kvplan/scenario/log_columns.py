"""Which column of a serving run's log is what: several spellings, and suffixes for the unit of a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvplan.errors import DataError
from kvplan.traces.columns import ARRIVALS, COUNTS, Column, counted, happened, timed

TIMES = {
    "arrival": (*ARRIVALS, "started_at", "ts", "time", "time_stamp", "date", "datetime", "date_time",
                "created", "arrived"),
    "ttft": ("ttft", "time_to_first_token", "first_token_latency", "first_token_delay",
             "first_chunk_latency"),
    "e2e": ("e2e", "e2e_latency", "latency", "e2el", "request_latency", "e2e_request_latency", "end_to_end",
            "total_time", "end_to_end_latency", "total_latency", "e2e_time", "duration", "response_time"),
    "end": ("end", "end_time", "finish", "finish_time", "completed_at", "last_token_ts",
            "finished_at", "request_end", "request_end_time", "end_ts", "completed_time", "last_token_time"),
    "first": ("first_token", "first_token_ts", "first_token_time", "first_token_at", "first_token_timestamp",
              "completion_start_time"),
    "tpot": ("tpot", "time_per_output_token", "itl", "inter_token_latency"),
    "prefill": ("server_ttft", "time_in_model_prefill", "gen_ai_latency_time_in_model_prefill"),
}  # fmt: skip
MOMENTS = ("arrival", "end", "first")
_INSTEAD = {"e2e": ("end", "tpot"), "ttft": ("first",)}
"""What a missing column follows from."""
SELDOM = ("cached_tokens", "prefill")
"""What servers say only if they are asked to, and not of every request."""

Columns = Mapping[str, Column]
"""Quantity to column."""


def candidates(quantity: str, header: Sequence[str]) -> list[Column]:
    """Columns that may hold a quantity, the likeliest first."""
    if quantity in COUNTS:
        return counted(quantity, header)
    found = timed(TIMES[quantity], header)
    return happened(header) if quantity == "arrival" and not found else found


def columns_of(header: Sequence[str], where: str, *, timeless: bool = False) -> dict[str, Column]:
    """The column of every quantity that the log has, without what nobody needs then.

    When a request came also follows from its end; ``timeless``: nobody needs to know.

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
    if "first" in found and "end" in found and found.get("e2e") == Column("response_time"):
        del found["e2e"]  # of a proxy that counts until the first token
    ended = "arrival" not in found and {"end", "e2e"} <= found.keys()
    needed = () if ended or timeless else ("arrival",)
    for quantity in (*needed, "prompt_tokens", "output_tokens", "ttft", "e2e"):
        if quantity not in found and not any(other in found for other in _INSTEAD.get(quantity, ())):
            spellings = {**TIMES, **COUNTS}[quantity]
            hint = f"name it one of {', '.join(spellings)} (times may end in _s or _ms)"
            if quantity in needed:
                hint += ", or say how many requests the client kept in flight (--max-in-flight)"
            raise DataError(
                f"the log has no column for {quantity}; it has {', '.join(header)[:200]}",
                where=where, hint=hint,
            )  # fmt: skip
    for quantity, others in _INSTEAD.items():
        for other in others if quantity in found else ():
            if not (ended and other == "end"):
                found.pop(other, None)
    return found


def spelled_as_moments(header: Sequence[str]) -> bool:
    """Whether a header has a time of the first token, so that its rows may be requests."""
    return bool(candidates("ttft", header) or candidates("first", header))
