"""The answer in words: one headline, the figures behind it, and what to be careful about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from kvplan.reporting.result import Result
from kvplan.reporting.schema.outcome import Slo
from kvplan.reporting.wording import (
    count,
    decimal,
    label,
    percent,
    plain,
    plural,
    seconds,
    seconds_range,
    sentence_list,
    signed_percent,
)

Tone = Literal["met", "missed", "partial", "neutral"]


@dataclass(frozen=True, slots=True)
class Chip:
    """One service-level objective as shown: ``TTFT p99``, ``891 ms``, ``within``, ``2.00 s``."""

    name: str
    value: str
    relation: str
    limit: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """``headline`` is one sentence; ``detail`` a few more; ``tone`` what colour a page may give them."""

    headline: str
    detail: tuple[str, ...]
    chips: tuple[Chip, ...]
    tone: Tone


def verdict(result: Result) -> Verdict:
    """What the result says, in plain words."""
    return Verdict(_headline(result), tuple(_detail(result)), tuple(map(_chip, result.slo)), _tone(result))


def _chip(slo: Slo) -> Chip:
    value = "no value" if slo.value_s is None else seconds(slo.value_s)
    relation = "limit" if slo.value_s is None else "within" if slo.passed else "over"
    return Chip(label(slo.name), value, relation, seconds(slo.limit_s), slo.passed)


def subject(result: Result) -> str:
    """``llama-3.1-8b on 2 × h100-sxm``, as far as the result knows."""
    name = plain(result.model.name, 80) if result.model else "The simulated engine"
    if result.gpu is None:
        return name
    number = f"{result.gpu.count} × " if result.gpu.count > 1 else ""
    return f"{name} on {number}{plain(result.gpu.name, 60)}"


def _tone(result: Result) -> Tone:
    if not result.complete or not result.totals.requests:
        return "partial"
    if any(not slo.passed for slo in result.slo) or not result.totals.finished:
        return "missed"
    if result.totals.rejected or result.totals.timed_out or result.totals.unfinished:
        return "partial"
    return "met" if result.slo else "neutral"


def _headline(result: Result) -> str:
    totals, who = result.totals, subject(result)
    missed = [slo for slo in result.slo if not slo.passed]
    if not totals.requests:
        return "No request was simulated." if result.complete else "The run stopped before any request."
    if not result.complete:
        all_of_them = plural(totals.requests, "request")
        return f"The run stopped early: {count(totals.finished)} of {all_of_them} finished."
    if not totals.finished:
        return f"{who} serves none of the {plural(totals.requests, 'request')}."
    if len(missed) == 1:
        return f"{who} misses its {_missed(missed[0], totals.timed_out)}."
    if missed:
        limits = len(result.slo)
        which = (
            f"{len(missed)} of its {limits}"
            if len(missed) < limits
            else "both its"
            if limits == 2
            else "all its"
        )
        return f"{who} misses {which} latency limits."
    served = (
        f"all {plural(totals.requests, 'request')}" if totals.finished == totals.requests
        else f"{count(totals.finished)} of {plural(totals.requests, 'request')}"
    )  # fmt: skip
    if totals.requests == 1:
        served = "its one request"
    within = f" within its latency limit{'s' if len(result.slo) > 1 else ''}" if result.slo else ""
    rest = f" and rejects {count(totals.rejected)}" if totals.rejected else ""
    late = f"; clients gave up on {count(totals.timed_out)}" if totals.timed_out else ""
    return f"{who} serves {served}{within}{rest}{late}."


def _missed(slo: Slo, timed_out: int) -> str:
    if slo.value_s is None:
        why = "clients gave up on too many requests" if timed_out else "no request counts towards it"
        return f"{label(slo.name)} limit: {why}"
    return f"{label(slo.name)} limit: {seconds(slo.value_s)} against {seconds(slo.limit_s)}"


def _detail(result: Result) -> list[str]:
    totals, latency = result.totals, result.latency
    if not totals.requests:
        return ["There is nothing to measure; the sections below show the configuration only."]
    if not totals.finished and result.complete:
        return [_turned_away(result)]
    rate = decimal(result.throughput.output_tokens_per_s)
    workload = (
        f"{plain(PurePath(result.trace.name).name, 80)} brings {plural(totals.requests, 'request')} with "
        f"{count(totals.prompt_tokens)} prompt and {count(totals.output_tokens)} output tokens; "
        f"serving them takes {seconds(totals.makespan_s)}, at {rate} output tokens per second."
    )
    lines = [workload]
    figures = [
        f"{name} {seconds(item.p99)}"
        for name, item in (("TTFT", latency.ttft_s), ("TPOT", latency.tpot_s), ("end to end", latency.e2e_s))
        if item is not None
    ]
    if figures:
        lines.append(f"At the 99th percentile: {sentence_list(figures)}.")
    lines.append(_cache_sentence(result))
    peak = f"Running requests held {percent(result.peak_use)} of the KV pool at the peak"
    lost = plural(totals.preemptions, "preemption") if totals.preemptions else "no preemption"
    lines.append(f"{peak}, with {lost}.")
    return lines


def _turned_away(result: Result) -> str:
    """Why no request was served, as the front end said it."""
    reasons = [text.split(_REJECTED, 1)[1] for text in result.warnings if _REJECTED in text]
    said = f"Every request was turned away: {plain('; '.join(reasons))}." if reasons else "None was finished."
    return f"{said} The sections below show the configuration only."


_REJECTED = "rejected by the front end: "


def _cache_sentence(result: Result) -> str:
    ratio, where = result.hit_ratio, "in the prefix cache"
    reused = reused_ratio(result)
    if reused is not None:  # what comes back from a tier is no hit of the cache
        where += f" on the GPU, {percent(reused)} there or in a tier below it"
    if ratio is None:
        return f"No prompt was looked up {where}."
    if ratio == 0:
        return f"No prompt token was found {where}."
    return f"{percent(ratio)} of the prompt tokens looked up were found {where}."


def reused_ratio(result: Result) -> float | None:
    """Share of the tokens looked up that were on the GPU or in a tier below; None without tiers."""
    found = [
        metric.value
        for metrics in result.strategies.values()
        for metric in metrics
        if metric.name == "cached_tokens" and isinstance(metric.value, int)
    ]
    queried = result.totals.queried_tokens
    return sum(found) / queried if found and queried else None


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


MAX_REASONS = 3
"""Reasons for dropped rows that are named; the others are counted."""


def cautions(result: Result) -> list[str]:
    """What in this very result should be read with care, most important first."""
    totals, notes = result.totals, []
    if not result.complete:
        notes.append("The run is incomplete: every figure covers only what was simulated before it stopped.")
    if totals.rejected:
        notes.append(f"{plural(totals.rejected, 'request')} rejected: in no latency.")
    if totals.timed_out:
        lost = f"{plural(totals.timed_out, 'request')} timed out and {_are(totals.timed_out)} in no latency."
        notes.append(f"{lost} Objectives count them as never served.")
    if result.complete and totals.unfinished:
        notes.append(f"{plural(totals.unfinished, 'request')} unfinished: in no latency.")
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
    return "accuracy band" if interval is None else f"90 % interval of {seconds_range(interval)}"


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


def band_text(band: list[float] | None) -> str:
    """``[-0.3, 0.25]`` -> ``'−30% to +25%'``."""
    return "not known" if band is None else f"{signed_percent(band[0])} to {signed_percent(band[1])}"
