"""The answer in words: one headline, and the figures behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from kvplan.reporting.cautions import burst_s, close_call, left_out, many_left_out, saturated
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
    sentence_list,
    signed_percent,
)

Tone = Literal["met", "missed", "partial", "neutral"]


@dataclass(frozen=True, slots=True)
class Chip:
    """One service-level objective as shown: ``TTFT p99``, ``891 ms``, ``within``, ``2.00 s``.

    ``close``: the limit lies inside what the value may be off by, so that the outcome is open.
    """

    name: str
    value: str
    relation: str
    limit: str
    passed: bool
    close: bool = False

    @property
    def outcome(self) -> Literal["met", "missed", "close"]:
        """What colour and sign it gets."""
        return "close" if self.close else "met" if self.passed else "missed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``headline`` is one sentence or two, ``detail`` a few more; ``tone`` is the colour of a page's bar.

    ``beside`` is the beginning of ``detail``: what the headline must not be read without.
    """

    headline: str
    detail: tuple[str, ...]
    chips: tuple[Chip, ...]
    tone: Tone
    beside: tuple[str, ...] = ()


def verdict(result: Result) -> Verdict:
    """What the result says, in plain words."""
    chips = tuple(_chip(result, slo) for slo in result.slo)
    beside = tuple(_beside(result))
    return Verdict(_headline(result), (*beside, *_detail(result)), chips, _tone(result), beside)


def _chip(result: Result, slo: Slo) -> Chip:
    if slo.value_s is None:
        value = "timed out" if result.totals.timed_out else "no value"
        return Chip(label(slo.name), value, "limit", seconds(slo.limit_s), slo.passed)
    relation = "within" if slo.passed else "over"
    close = close_call(result, slo)
    return Chip(label(slo.name), seconds(slo.value_s), relation, seconds(slo.limit_s), slo.passed, close)


def subject(result: Result) -> str:
    """``llama-3.1-8b on 2 x h100-sxm``, as far as the result knows."""
    name = plain(result.model.name, 80) if result.model else "The simulated engine"
    if result.gpu is None:
        return name
    number = f"{result.gpu.count} x " if result.gpu.count > 1 else ""
    return f"{name} on {number}{plain(result.gpu.name, 60)}"


MINORITY = 0.5
"""Share of the requests below which those served are too few to speak for the others."""


def refused(result: Result) -> bool:
    """Whether the engine would not start, as its pool has no room for one longest request."""
    return result.memory is not None and not result.memory.starts


def _tone(result: Result) -> Tone:
    totals = result.totals
    if not result.complete or not totals.requests:
        return "partial"
    if refused(result) or any(not slo.passed for slo in result.slo):
        return "missed"
    if totals.finished < MINORITY * totals.requests:
        return "missed"
    if totals.rejected or totals.timed_out or totals.unfinished or saturated(result):
        return "partial"
    if not result.slo and burst_s(result) is not None:
        return "partial"
    if many_left_out(result) or any(close_call(result, slo) for slo in result.slo):
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
    if refused(result):
        return _refusal(result)
    if not totals.finished:
        return f"{who} serves none of the {plural(totals.requests, 'request')}."
    if missed:
        lost = f" It {_served(result)}." if totals.finished < totals.requests else ""
        return f"{who} misses {_which(result, missed)}.{_rates(' Saturated', result)}{lost}"
    if saturated(result):
        lost = f" It {_served(result)}." if totals.finished < totals.requests else ""
        return f"{_rates(f'{who} is saturated', result)}{lost}"
    if not result.slo and (span_s := burst_s(result)) is not None and result.latency.queue_s is not None:
        waited = seconds(result.latency.queue_s.p50)
        return (
            f"{who} {_served(result)}, but as one burst: they came within {seconds(span_s)}, and half of "
            f"them waited {waited} or more for their turn."
        )
    within = f" within its latency limit{'s' if len(result.slo) > 1 else ''}" if result.slo else ""
    return f"{who} {_served(result, within)}{_unsure(result)}."


def _served(result: Result, within: str = "") -> str:
    """``serves 982 of 1,000 requests and rejects 18``; ``within`` comes before who was lost."""
    totals = result.totals
    whole = plural(totals.requests, "request")
    only = "only " if 0 < totals.finished < MINORITY * totals.requests else ""
    served = (
        "its one request" if totals.finished == totals.requests == 1
        else f"all {whole}" if totals.finished == totals.requests
        else f"{only}{count(totals.finished)} of {whole}" if totals.finished
        else f"none of the {whole}"
    )  # fmt: skip
    rest = f" and rejects {count(totals.rejected)}" if totals.rejected else ""
    late = f"; clients gave up on {count(totals.timed_out)}" if totals.timed_out else ""
    return f"serves {served}{within}{rest}{late}"


def _which(result: Result, missed: list[Slo]) -> str:
    """``its TTFT p99 limit: 891 ms against 500 ms``, or how many of the limits."""
    limits = len(result.slo)
    if len(missed) == 1:
        close = ", too close to call" if close_call(result, missed[0]) else ""
        return f"its {_missed(missed[0], result.totals.timed_out)}{close}"
    some = (
        f"{len(missed)} of its {limits}" if len(missed) < limits else "both its" if limits == 2 else "all its"
    )
    return f"{some} latency limits"


def _unsure(result: Result) -> str:
    """What is said of limits that are met by less than the value may be off."""
    close = [label(slo.name) for slo in result.slo if close_call(result, slo)]
    if not close:
        return ""
    return f", but {sentence_list(close)} {'is' if len(close) == 1 else 'are'} too close to call"


def _rates(said: str, result: Result) -> str:
    """``said`` with the rates of a saturated run; nothing of another one."""
    offered = result.offered
    if not saturated(result) or offered is None:
        return ""
    return (
        f"{said}: {decimal(offered.requests_per_s or 0.0)} requests/s offered, "
        f"{decimal(offered.sustained_per_s or 0.0)} sustained; the queue grew to "
        f"{count(result.totals.peak_waiting)}."
    )


def _refusal(result: Result) -> str:
    """That the engine would not start, and with what it would."""
    bill = result.memory
    assert bill is not None
    who, size = subject(result), count(bill.max_concurrency_context or 0)
    said = f"{who} would not start as configured: its KV pool has no room for one request of {size} tokens."
    if not bill.longest_request:
        return said
    return f"{said} Add --set engine.max_model_len={bill.longest_request}, the longest that fits."


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
    lines = [_workload(result)]
    figures = [
        f"{name} {seconds(item.p99)}"
        for name, item in (("TTFT", latency.ttft_s), ("TPOT", latency.tpot_s), ("end to end", latency.e2e_s))
        if item is not None
    ]
    if figures:
        few = totals.finished < MINORITY * totals.requests
        whose = f" of the {count(totals.finished)} that were served" if few else ""
        lines.append(f"At the 99th percentile{whose}: {sentence_list(figures)}.")
    lines.append(_cache_sentence(result))
    peak = f"Running requests held {percent(result.peak_use)} of the KV pool at the peak"
    lost = plural(totals.preemptions, "preemption") if totals.preemptions else "no preemption"
    lines.append(f"{peak}, with {lost}.")
    return lines


def _beside(result: Result) -> list[str]:
    """Rows that were left out; what was simulated where the engine would not start; limits of a short run."""
    lines = [_left_out(result)] if many_left_out(result) else []
    if result.complete and refused(result):
        lines.append(f"Simulated without that check, it {_served(result)}.")
        lines += [said] if (said := _rates("It is saturated", result)) else []
    elif saturated(result) and result.slo and all(slo.passed for slo in result.slo):
        lines.append("Its latency limits are met in this run, and would not be in a longer one.")
    return lines


def _left_out(result: Result) -> str:
    """How much of the trace this is no answer for."""
    lost, rows = left_out(result), result.trace.rows_read
    reason = max(lost, key=lambda reason: lost[reason])
    mostly = "mostly " if len(lost) > 1 else ""
    number = sum(lost.values())
    return (
        f"{count(number)} of the trace's {count(rows)} rows ({percent(number / rows)}) were left out, "
        f"{mostly}for “{plain(reason, 60)}”: this answers for the others alone."
    )


def _workload(result: Result) -> str:
    """What was asked for, and what came of it."""
    totals, offered = result.totals, result.offered
    brings = f"{plain(PurePath(result.trace.name).name, 80)} {'brings' if result.complete else 'had brought'}"
    took = f"takes {seconds(totals.makespan_s)}"
    rate = f"at {decimal(result.throughput.output_tokens_per_s)} output tokens per second"
    tokens = f"{count(totals.prompt_tokens)} prompt and {count(totals.output_tokens)} output tokens"
    if totals.finished == totals.requests:
        asked = plural(totals.requests, "request")
        return f"{brings} {asked} with {tokens}; serving them {took}, {rate}."
    if offered is None or not result.complete:  # one that was stopped had read ahead
        asked = plural(totals.requests, "request")
        return f"{brings} {asked}; the {count(totals.finished)} served have {tokens}; that {took}, {rate}."
    asked = (
        f"{plural(offered.requests, 'request')} with {count(offered.prompt_tokens)} prompt and "
        f"{count(offered.output_tokens)} output tokens"
    )
    return f"{brings} {asked}; {count(totals.finished)} were served, with {tokens}; that {took}, {rate}."


def _turned_away(result: Result) -> str:
    """Why no request was served, as the front end said it."""
    reasons = [text.split(_REJECTED, 1)[1] for text in result.warnings if _REJECTED in text]
    said = f"Every request was turned away: {plain('; '.join(reasons))}." if reasons else "None was finished."
    return f"{said} The sections below show the configuration only."


_REJECTED = "requests rejected: "


def _cache_sentence(result: Result) -> str:
    ratio, where = result.hit_ratio, "in the prefix cache"
    reused = reused_ratio(result)
    if reused is not None:  # what comes back from a tier is no hit of the cache
        where += f" on the GPU, {percent(reused)} there or in a tier below it"
    if not result.hits_known:
        return "Hits in the prefix cache are not known: the trace does not say what prompts share."
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


def band_text(band: list[float] | None) -> str:
    """``[-0.3, 0.25]`` -> ``'−30% to +25%'``."""
    return "not known" if band is None else f"{signed_percent(band[0])} to {signed_percent(band[1])}"
