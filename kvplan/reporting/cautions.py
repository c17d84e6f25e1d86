"""What to be careful about: what this very result suffers from, and what no figure of it contains."""

from __future__ import annotations

import math

from kvplan.reporting.result import Result
from kvplan.reporting.schema.outcome import Slo
from kvplan.reporting.wording import (
    count,
    decimal,
    label,
    plain,
    plural,
    seconds,
    seconds_range,
    sentence_list,
)
from kvplan.scenario.settling import LIFETIMES
from kvplan.traces.accounting import NO_REQUESTS


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


MAX_REASONS = 3
"""Reasons for dropped rows that are named; the others are counted."""


def cautions(result: Result) -> list[str]:
    """What in this very result should be read with care, most important first."""
    totals, notes = result.totals, []
    if not result.complete:
        notes.append("The run is incomplete: every figure covers only what was simulated before it stopped.")
    if totals.rejected:
        lost = f"{plural(totals.rejected, 'request')} {_were(totals.rejected)} rejected"
        notes.append(f"{lost} and {_are(totals.rejected)} in no latency.")
    if totals.timed_out:
        lost = f"{plural(totals.timed_out, 'request')} timed out and {_are(totals.timed_out)} in no latency."
        notes.append(f"{lost} Objectives count them as never served.")
    if result.complete and totals.unfinished:
        left = f"{plural(totals.unfinished, 'request')} {_were(totals.unfinished)} left unfinished"
        notes.append(f"{left} and {_are(totals.unfinished)} in no latency.")
    if saturated(result):
        notes.append(
            "The queue grew for as long as requests came: with more requests every wait is longer, so the "
            "latencies are those of this many and not of this rate."
        )
        if result.accuracy.bands is not None and not result.accuracy.ensemble:
            notes.append(
                "The intervals are the clock's stated bands, which hold below saturation: for this run they "
                "do not hold."
            )
    elif (span_s := burst_s(result)) is not None:
        notes.append(
            f"All requests came within {seconds(span_s)}: one burst, which says nothing of such a rate for "
            "longer. kvplan sweep --highest finds the highest rate that is served."
        )
    elif (lifetimes := _lifetimes(result)) is not None and lifetimes < LIFETIMES:
        notes.append(
            f"Requests came for {decimal(lifetimes)} times as long as the slowest of them stay: the engine "
            f"may still have been filling up, which flatters this rate. Runs of {decimal(LIFETIMES)} times "
            "tell, or kvplan sweep --highest, which makes its own longer."
        )
    for slo in result.slo:
        if close_call(result, slo):
            notes.append(
                f"{label(slo.name)} is too close to call: its limit of {seconds(slo.limit_s)} lies inside "
                f"the {_around(result, slo)} around {seconds(slo.value_s)}."
            )
    ttft = result.latency.ttft_s
    if ttft is not None and ttft.count < 1000:
        number = math.ceil(ttft.count / 100)
        tail = "request" if number == 1 else plural(number, "request")
        notes.append(f"The 99th percentile rests on the slowest {tail} of {count(ttft.count)}.")
    if not result.trace.reuse_known:
        notes.append(
            "The trace does not say which prompts share content, so prefix hits between requests are missing."
        )
    dropped = sum(result.trace.dropped.values())
    if dropped:
        reasons = sorted(result.trace.dropped.items(), key=lambda item: -item[1])
        said = [f"{count(number)} for “{plain(reason, 60)}”" for reason, number in reasons[:MAX_REASONS]]
        if len(reasons) > MAX_REASONS:
            others = sum(number for _, number in reasons[MAX_REASONS:])
            said.append(f"{count(others)} for {plural(len(reasons) - MAX_REASONS, 'other reason')}")
        why = sentence_list(said)
        notes.append(f"{plural(dropped, 'row')} of the trace dropped: {why}.")
    return notes


LEFT_OUT = 0.1
"""Share of a trace's rows above which the answer cannot be read without knowing that they were left out."""


def left_out(result: Result) -> dict[str, int]:
    """Rows by the reason for which they became no request, where they may have been some."""
    return {
        reason: number
        for reason, number in result.trace.dropped.items()
        if not reason.startswith(NO_REQUESTS)
    }


def many_left_out(result: Result) -> bool:
    """Whether a tenth of the trace's rows or more was left out."""
    rows = result.trace.rows_read
    return rows > 0 and sum(left_out(result).values()) >= LEFT_OUT * rows


def saturated(result: Result) -> bool:
    """Whether requests came faster than they were served."""
    return result.complete and result.offered is not None and result.offered.saturated


FEWEST_OF_A_BURST = 20
"""Requests from which on they are a burst where they come at once."""


def burst_s(result: Result) -> float | None:
    """Seconds in which all requests came, where half of them then waited longer than that; None otherwise.

    Such a run is over before its rate could show: it is not saturated, and its engine never kept up either.
    """
    span_s, queue = _span_s(result), result.latency.queue_s
    if not result.complete or span_s is None or queue is None or saturated(result):
        return None
    return span_s if queue.p50 > span_s and result.totals.requests >= FEWEST_OF_A_BURST else None


def _span_s(result: Result) -> float | None:
    """Seconds from the first arrival to the last; ``None`` where requests had no rate of their own."""
    offered = result.offered
    return (offered.requests - 1) / offered.requests_per_s if offered and offered.requests_per_s else None


def _lifetimes(result: Result) -> float | None:
    """Length of the arrivals in 99th percentiles of E2E; ``None`` where requests had no rate of their own."""
    span_s, stay = _span_s(result), result.latency.e2e_s
    return None if span_s is None or stay is None or stay.p99 <= 0 else span_s / stay.p99


def close_call(result: Result, slo: Slo) -> bool:
    """Whether the interval around an SLO's value contains its limit; without intervals the accuracy band."""
    interval = _interval(result, slo)
    if interval is not None:
        return interval[0] <= slo.limit_s <= interval[1]
    bands = result.accuracy.bands
    band = getattr(bands, slo.name.split("_")[0], None) if bands is not None else None
    if band is None or slo.value_s is None:
        return False
    return bool(slo.value_s * (1 + band[0]) <= slo.limit_s <= slo.value_s * (1 + band[1]))


def _interval(result: Result, slo: Slo) -> tuple[float, float] | None:
    latency, statistic, _ = slo.name.split("_") if slo.name.count("_") == 2 else ("", "", "")
    return None if slo.value_s is None else result.interval(f"{latency}_s", statistic)


def _around(result: Result, slo: Slo) -> str:
    interval = _interval(result, slo)
    return "accuracy band" if interval is None else f"90% interval of {seconds_range(interval)}"


def unknowns(result: Result) -> list[str]:
    """What no figure of this result contains, so that nobody reads it in."""
    client = next((i.value for i in result.assumptions if i.name == "latency.client_overhead_s"), None)
    if isinstance(client, (int, float)) and client > 0:
        outside = (
            f"The network to the client; HTTP, tokenization and detokenization are in TTFT and E2E as "
            f"{seconds(client)} a request."
        )
    else:
        outside = "Time outside the engine: network, HTTP, tokenization and detokenization are in no latency."
    notes = [
        outside,
        "Anything else on the GPU, and clocks lowered by heat or power limits.",
        "Output lengths are the trace's own; another model or sampling would answer at other lengths.",
    ]
    if result.accuracy.model == "linear":
        notes.append("The step time is a given straight line, not a prediction for any GPU.")
    if result.accuracy.model == "roofline":
        notes.append("Kernels seldom reach datasheet peaks; measured profiles replace the roofline.")
    if result.memory is None:
        notes.append("Whether the model fits: no memory bill was computed for this run.")
    return notes
