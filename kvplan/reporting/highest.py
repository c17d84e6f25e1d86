"""The answer of a search for the highest load, in words: what it rests on, and how far to trust it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvplan.reporting.wording import (
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
from kvplan.scenario.settling import FILLED, LIFETIMES, TAIL, tail

Found = Mapping[str, Any]
"""``highest`` of a ``kvplan.sweep/1`` document."""

REQUESTS = "workload.requests"

_LOADS = {
    "workload.rate": "{} requests a second",
    "workload.rate_scale": "{} times the trace's rate",
    "workload.max_in_flight": "{} requests in flight",
    "workload.max_sessions": "{} sessions at a time",
}
_OPEN = ("workload.rate", "workload.rate_scale", "workload.time_scale")
"""Loads that come whatever the engine does, so that its queue may grow for ever."""


def load_text(key: str, value: float) -> str:
    """A value of a field in words, where it is a kind of load."""
    said = _LOADS.get(key, f"{plain(key)} = {{}}").format(f"{value:g}")
    return said.replace("1 requests", "1 request").replace("1 sessions", "1 session") if value == 1 else said


def highest_sentence(document: Mapping[str, Any]) -> str:
    """The answer of a search, with its interval; where the run was too short, that comes first."""
    found = document["highest"]
    key, passed, missed = found["key"], found["passed"], found["missed"]
    if passed is None and found.get("met_above") is not None:
        return (
            f"every objective is met at {load_text(key, found['met_above'])}, and not at {missed:g}: more is "
            "better here, and there is no highest value to find"
        )
    if passed is None and missed is None:
        return "nothing could be simulated that tells whether the objectives are met"
    if passed is None:
        return f"the objectives are not met, not even at {load_text(key, missed)}"
    beyond = _beyond(document)
    load = load_text(key, passed)
    if found.get("settled") is not False:
        return f"every objective is met up to {load} ({beyond}){_range_text(found)}"
    if key in _OPEN:
        met = f"at most {load} meet every objective ({beyond}), in a longer run perhaps less"
    else:
        met = f"in this one every objective is met up to {load} ({beyond})"
    return f"too short a run to tell; {met}"


def _beyond(document: Mapping[str, Any]) -> str:
    """What is the case above the answer: what is missed first, or why nobody knows."""
    found = document["highest"]
    key, passed, missed, binds = (found.get(name) for name in ("key", "passed", "missed", "binding"))
    points = of_answer(document)["points"]
    failed = {point["values"][key]: point["error"] for point in points if point["error"] is not None}
    if missed is None:
        above = [value for value in failed if value > passed]
        return f"{min(above):g} could not be simulated" if above else "nothing higher was tried"
    if missed in failed:
        return f"at {missed:g} it does not fit"
    return f"at {missed:g} {label(binds)} is missed" if binds else f"at {missed:g} not"


def _range_text(found: Found) -> str:
    ends = found.get("range")
    if ends is None:
        return ""
    low = "nothing that was looked at" if ends["low"] is None else f"{ends['low']:g}"
    more, less = (percent(abs(ends[end] - 1.0), 0) for end in ("slower", "faster"))
    off = f"{more} more or less" if more == less else f"{more} more to {less} less"
    if ends["low"] == ends["high"]:
        return f", also if steps take {off} time than predicted"
    return f"; {low} to {ends['high']:g} if steps take {off} time than predicted"


def range_note(found: Found) -> str:
    """The interval of the answer, short."""
    ends = found.get("range")
    if ends is None:
        return "too short a run to tell" if found.get("settled") is False else "no interval is known"
    if ends["low"] == ends["high"]:
        return "at either end of the clock's band"
    low = "nothing" if ends["low"] is None else f"{ends['low']:g}"
    return f"{low} to {ends['high']:g} within the clock's band"


def answer_figures(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The figures of the point at the answer; None where there is none."""
    found = document["highest"]
    for point in document["points"]:
        values = point["values"]
        same = values.get(REQUESTS, found.get("requests")) == found.get("requests")
        if (
            point["figures"]
            and found["passed"] is not None
            and values[found["key"]] == found["passed"]
            and same
        ):
            return dict(point["figures"])
    return None


def of_answer(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document with the points only that the answer rests on, where shorter runs were tried before."""
    found = document.get("highest")
    if found is None or all(axis["key"] != REQUESTS for axis in document["axes"][:-1]):
        return document
    kept = [point for point in document["points"] if point["values"][REQUESTS] == found["requests"]]
    key = found["key"]
    return {
        **document,
        "axes": [axis for axis in document["axes"] if axis["key"] == key],
        "points": [{**point, "values": {key: point["values"][key]}} for point in kept],
    }


def highest_remarks(document: Mapping[str, Any]) -> list[str]:
    """What is to be known about the answer: the figures there, what it rests on, what makes it doubtful."""
    found = document["highest"]
    figures = answer_figures(document)
    if figures is None:
        return []
    return [*_at_the_answer(found, figures), *_makes_no_difference(document), *_doubts(found, figures)]


def _at_the_answer(found: Found, figures: Mapping[str, Any]) -> Iterator[str]:
    objectives = figures.get("objectives") or []
    if objectives:
        yield f"at {found['passed']:g}: " + sentence_list([objective_text(item) for item in objectives])
    shorter = found.get("shorter") or []
    if shorter and found.get("requests") is not None:
        before = [
            f"{'none' if item['passed'] is None else format(item['passed'], 'g')} with {item['requests']:,}"
            for item in shorter
        ]
        yield (
            f"the answer rests on runs of {plural(found['requests'], 'request')}; it was "
            f"{sentence_list(before)}"
        )


def objective_text(item: Mapping[str, Any]) -> str:
    """``TTFT p99 0.8 s of 1.0 s``, with the interval and whether it is too close to call."""
    said = f"{label(item['name'])} {seconds(item['value_s'])} of {seconds(item['limit_s'])}"
    around = item["interval_s"]
    if around is None:
        return said
    close = ", too close to call" if around[0] <= item["limit_s"] <= around[1] else ""
    return f"{said} ({seconds_range((around[0], around[1]))} by the clock's band{close})"


def _makes_no_difference(document: Mapping[str, Any]) -> Iterator[str]:
    """Where lower values came out the same in every figure, the field does not decide."""
    key, passed = document["highest"]["key"], document["highest"]["passed"]
    done = [point for point in document["points"] if point["figures"]]
    at = [point for point in done if point["values"][key] == passed]
    same = [
        point["values"][key]
        for point in done
        for other in at
        if point["values"][key] < passed
        and point["values"].get(REQUESTS) == other["values"].get(REQUESTS)
        and point["figures"] == other["figures"]
    ]
    if same:
        yield f"from {load_text(key, min(same))} on it makes no difference"


def _doubts(found: Found, figures: Mapping[str, Any]) -> Iterator[str]:
    if found.get("settled") is False:
        reasons = list(_too_short(found, figures)) or ["the run is too short"]
        more = more_text(found.get("requests"))
        yield f"at {found['passed']:g} {sentence_list(reasons)}; {more} would tell"
    yield from few_slowest(figures)


def more_text(requests: int | None) -> str:
    """What makes a run longer: of so many synthetic requests, or of a trace."""
    return "a longer trace" if requests is None else "a larger --longest"


def few_slowest(figures: Mapping[str, Any]) -> Iterator[str]:
    """What to know of percentiles that a handful of requests decide."""
    if figures.get("objectives") and tail(figures) < TAIL:
        number = max(1, round(tail(figures)))
        yield f"the percentiles judged rest on the slowest {plural(number, 'request')}"


def _too_short(found: Found, figures: Mapping[str, Any]) -> Iterator[str]:
    arrivals_s, stay_s, growth = figures["arrivals_s"], figures["e2e_p99_s"], figures["growth"]
    if arrivals_s is None:
        return
    if stay_s is None or arrivals_s < LIFETIMES * stay_s:
        yield f"requests arrive for {seconds(arrivals_s)} and stay for up to {seconds(stay_s)} (E2E p99)"
    if growth is not None and growth > FILLED:
        yield (
            f"the engine was still filling up as arrivals ended ({decimal(growth, 2)} times as many requests "
            "in it in their second half as in the first)"
        )
    shorter = found.get("shorter") or []
    if shorter and shorter[-1]["passed"] is not None:
        moved = found["passed"] / shorter[-1]["passed"] - 1
        if moved:
            yield f"the last lengthening moved the answer by {signed_percent(round(moved, 3))}"
