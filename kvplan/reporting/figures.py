"""The charts of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from kvplan.reporting.capacity import fits_at, given_share, holds_one, replicas_of
from kvplan.reporting.figure import COLOURS, SYMBOLS, Axis, Figure, Line, Mark, Rule, Segment, Symbol
from kvplan.reporting.result import Result
from kvplan.reporting.schema.hardware import CapacityCurve
from kvplan.reporting.series import MAX_POINTS, mean_over_time, thin, windowed_ratio
from kvplan.reporting.step_time import step_time
from kvplan.reporting.wording import (
    LATENCIES,
    count,
    decimal,
    label,
    percent,
    plain,
    plural,
    seconds,
    sentence_list,
    significant,
)
from kvplan.units import GIB, format_bytes

MAX_CURVES = 8
"""Most lines of the capacity chart and columns of its table."""


def figures(result: Result) -> dict[str, Figure]:
    """Every chart the result has data for, by key, in the order of the report."""
    made = [memory(result), capacity(result), occupancy(result), requests(result), hit_ratio(result)]
    made.append(step_time(result))
    made += [distribution(result, name) for name in ("ttft_s", "tpot_s", "e2e_s")]
    return {figure.key: figure for figure in made if figure is not None}


def memory(result: Result) -> Figure | None:
    """The bill of one GPU as one stacked bar in GiB."""
    if result.memory is None or not result.memory.total_bytes:
        return None
    bill = [item for item in result.memory.bill if item.bytes][:12]
    colours = iter(range(3, 3 + len(bill)))
    segments = []
    for item in bill:
        quiet = item.name in _QUIET
        colour = _FIXED.get(item.name) or (0 if quiet else (next(colours) - 1) % COLOURS + 1)
        size = significant(item.bytes / GIB, 6)
        segments.append(Segment(label(plain(item.name, 40)), size, colour, f"{size:,.2f}", quiet))
    largest = sorted(bill, key=lambda item: -item.bytes)[:3]
    total = result.memory.total_bytes
    shares = [f"{label(i.name)} {format_bytes(i.bytes)} ({percent(i.bytes / total)})" for i in largest]
    summary = f"Of {format_bytes(total)}, the largest parts are {sentence_list(shares)}."
    high = sum(segment.value for segment in segments)
    return Figure(
        "memory", "Memory of one GPU", summary, Axis("GiB", "GiB", 0, high), Axis("", "count", 0, 1),
        segments=tuple(segments),
    )  # fmt: skip


_FIXED = {"kv_pool": 1, "weights": 2}
_QUIET = {"unused", "slack", "free"}


def capacity(result: Result) -> Figure | None:
    """Sequences that fit at once against their context, one line a KV format."""
    curves = [c for c in result.capacity or () if any(point.max_concurrency > 0 for point in c.points)]
    curves = curves[:MAX_CURVES]
    if not curves:
        return None
    chosen = result.model.kv_dtype if result.model else None
    lines, values = [], []
    for index, curve in enumerate(curves):
        points = sorted((p.context_tokens, p.max_concurrency) for p in curve.points if p.max_concurrency > 0)
        x, y = thin([p[0] for p in points], [p[1] for p in points], MAX_POINTS)
        values += y
        colour, symbol = index % COLOURS + 1, SYMBOLS[index % len(SYMBOLS)]
        name = plain(curve.dtype, 40)
        lines.append(Line(name, x, [significant(v) for v in y], colour, symbol, heavy=curve.dtype == chosen))
    marks = _of_workload(result, curves)
    bill = result.memory
    if not marks and bill and bill.max_concurrency and bill.max_concurrency_context:
        held = decimal(bill.max_concurrency) if holds_one(result) else "less than 1"
        at = f"{held} x {count(bill.max_concurrency_context)} tokens"
        marks.append(Mark(bill.max_concurrency_context, bill.max_concurrency, at, 0, "diamond"))
    values += [mark.y for mark in marks]
    contexts = [x for line in lines for x in line.x] + [mark.x for mark in marks]
    width = Axis(
        "context of each sequence, tokens, log scale", "tokens", min(contexts), max(contexts), log=True
    )
    height = Axis("sequences at once, log scale", "count", min(values), max(values), log=True)
    title, summary = "How many sequences fit at once", _capacity_summary(result)
    return Figure("capacity", title, summary, width, height, tuple(lines), marks=tuple(marks))


def _of_workload(result: Result, curves: Sequence[CapacityCurve]) -> list[Mark]:
    """Requests of the workload's mean and p99 length that fit at once, in the format chosen."""
    offered, chosen = result.offered, result.model.kv_dtype if result.model else None
    curve = next((curve for curve in curves if curve.dtype == chosen), None)
    if offered is None or offered.tokens_mean is None or offered.tokens_p99 is None or curve is None:
        return []
    share, lengths = given_share(result), {"mean": offered.tokens_mean, "p99": offered.tokens_p99}
    marks = []
    for (name, tokens), symbol in zip(lengths.items(), ("diamond", "square"), strict=True):
        held = share * fits_at(curve, tokens)
        if held > 0:
            # A long label would lie over other formats' lines; how many tokens these are is in the summary.
            said = f"mean: {_held(result, held)}" if name == "mean" else name
            marks.append(Mark(tokens, significant(held), said, 0, cast("Symbol", symbol)))
    return marks


def _held(result: Result, number: float) -> str:
    """Sequences at once; parts of one on each replica are none."""
    return decimal(number) if number >= replicas_of(result) else "less than 1"


def _capacity_summary(result: Result) -> str:
    bill, parts = result.memory, []
    if bill and bill.max_concurrency and bill.max_concurrency_context:
        size = f"{count(bill.max_concurrency_context)} tokens"
        if holds_one(result):
            parts.append(
                f"This configuration holds {decimal(bill.max_concurrency)} sequences of {size} at once."
            )
        else:
            parts.append(f"This configuration has no room for one sequence of {size}.")
    offered = result.offered
    if offered is not None and offered.tokens_mean is not None:
        mean = offered.tokens_mean
        held = [
            f"{_held(result, fits_at(curve, mean))} with {plain(curve.dtype, 40)}"
            for curve in (result.capacity or ())[:4]
            if curve.points
        ]
        if held and mean > 0 and offered.tokens_p99 is not None:
            parts.append(f"Of the workload's mean length, {count(mean)} tokens: {sentence_list(held)}.")
            parts.append(f"Its p99 is {count(offered.tokens_p99)} tokens.")
            parts += _given_blocks(result)
        return " ".join(parts)
    longest = [
        (plain(curve.dtype, 40), max(curve.points, key=lambda p: p.context_tokens))
        for curve in (result.capacity or ())[:MAX_CURVES]
        if curve.points
    ]
    at = [f"{decimal(point.max_concurrency)} with {name}" for name, point in longest[:4]]
    if at and len({point.context_tokens for _, point in longest}) == 1:
        parts.append(f"At {count(longest[0][1].context_tokens)} tokens each: {sentence_list(at)}.")
        parts += _given_blocks(result)
    return " ".join(parts)


def _given_blocks(result: Result) -> list[str]:
    """That the run had another pool than the one the curves are of."""
    cache, engine = (result.scenario.get(key) for key in ("cache", "engine"))
    given = cache.get("blocks") if isinstance(cache, dict) else None
    whole = result.memory.num_blocks if result.memory else None
    other = isinstance(engine, dict) and engine.get("kind") == "sglang"  # counts in pages of its own
    if not isinstance(given, int) or not whole or given == whole or other:
        return []
    return [f"That is with all {count(whole)} blocks that fit on a GPU; this run was given {count(given)}."]


def _clock(result: Result) -> tuple[list[float], Axis] | None:
    """Sample times in a unit that suits the run, and the axis saying which; ``None`` without two of them."""
    times = result.series.t_s
    if len(times) < 2 or times[-1] <= times[0]:
        return None
    name, factor = next((n, f) for n, f, most in CLOCKS if times[-1] <= most)
    scaled = [significant(t / factor, 6) for t in times]
    return scaled, Axis(f"time, {name}", "time", scaled[0], scaled[-1])


CLOCKS = (("seconds", 1.0, 300.0), ("minutes", 60.0, 10_800.0), ("hours", 3600.0, float("inf")))
"""Units of time: name, seconds, and the longest run in seconds that is drawn in it."""


def occupancy(result: Result) -> Figure | None:
    """Used and cached blocks over time, stacked, below the size of the pool."""
    clock = _clock(result)
    if clock is None:
        return None
    times, axis = clock
    series, usable = result.series, result.pool.usable_blocks
    x, used = thin(times, series.used_blocks)
    both = [a + b for a, b in zip(series.used_blocks, series.cached_blocks, strict=True)]
    top_x, top = thin(times, both)
    lines = (
        Line("used by running requests", x, list(used), 1, fill="zero"),
        Line("cached, free to evict", top_x, list(top), 3, fill="previous"),
    )
    mean = mean_over_time(series.t_s, series.used_blocks)
    share = f" ({percent(mean / usable)} of the pool)" if usable else ""
    summary = (
        f"On average {count(mean)} blocks are in use{share}; the peak is "
        f"{count(result.totals.peak_used_blocks)} of {count(usable)}."
    )
    high = max(usable, *both)
    rules = (Rule("y", usable, f"pool: {count(usable)} blocks"),)
    height = Axis("blocks", "count", 0, high)
    return Figure("occupancy", "Blocks of the pool", summary, axis, height, lines, rules)


def requests(result: Result) -> Figure | None:
    """Running and waiting requests over time."""
    clock = _clock(result)
    if clock is None:
        return None
    times, axis = clock
    lines = []
    for index, name in enumerate(("running", "waiting")):
        x, y = thin(times, getattr(result.series, name))
        lines.append(Line(name, x, list(y), index + 1, fill="zero" if index else None))
    totals = result.totals
    summary = (
        f"At most {plural(totals.peak_running, 'request')} ran and {count(totals.peak_waiting)} waited at "
        f"once; {plural(totals.preemptions, 'preemption')} in {count(totals.steps)} engine steps."
    )
    high = max(1, *result.series.running, *result.series.waiting)
    return Figure(
        "requests", "Requests in the engine", summary, axis, Axis("requests", "count", 0, high), tuple(lines)
    )


def hit_ratio(result: Result) -> Figure | None:
    """Share of looked-up prompt tokens found in the prefix cache, per window and so far."""
    clock = _clock(result)
    series = result.series
    if clock is None or not series.queried_tokens[-1] or not result.hits_known:
        return None
    times, axis = clock
    at, window = windowed_ratio(times, series.hit_tokens, series.queried_tokens)
    rows = [i for i, queried in enumerate(series.queried_tokens) if queried]
    ratios = [series.hit_tokens[i] / series.queried_tokens[i] for i in rows]
    x, so_far = thin([times[i] for i in rows], ratios)
    shown = [None if ratio is None else significant(ratio) for ratio in window]
    lines = (
        Line("in each window", [significant(t) for t in at], shown, 1),
        Line("since the start", x, [significant(r) for r in so_far], 2, dashed=True),
    )
    known = [r for r in window if r is not None]
    summary = f"{percent(result.hit_ratio)} of the looked-up prompt tokens were found over the whole run"
    if len(known) > 1:
        summary += f"; between {percent(min(known))} and {percent(max(known))} in windows of 1/60 of it"
    high = min(1.0, max(0.1, *known, *so_far) * 1.1) if known else 1.0
    height = Axis("hit ratio", "percent", 0, high)
    return Figure("hit_ratio", "Prefix cache hit ratio", f"{summary}.", axis, height, lines)


def distribution(result: Result, name: str) -> Figure | None:
    """The cumulative distribution of one latency, with its limits."""
    values: Sequence[float] = getattr(result.distributions, name)
    if not values:
        return None
    short, meaning = LATENCIES[name]
    limits = [s for s in result.slo if f"{s.name.split('_')[0]}_s" == name and s.limit_s > 0][:3]
    positive = [value for value in values if value > 0]
    if not positive:
        return None
    floor = positive[0]
    high = max(values[-1], *(slo.limit_s for slo in limits)) if limits else values[-1]
    log = high > 4 * floor
    x = [significant(max(value, floor) if log else value) for value in values]
    line = Line(f"{short}, share of requests", x, [i / 100 for i in range(101)], 1)
    marks = tuple(
        Mark(x[p], p / 100, f"p{p} {seconds(values[p])}", 1, symbol)
        for p, symbol in ((50, SYMBOLS[0]), (90, SYMBOLS[1]), (99, SYMBOLS[2]))
    )
    rules = tuple(
        Rule("x", slo.limit_s, f"{_statistic(slo.name)} limit {seconds(slo.limit_s)}", slo.passed)
        for slo in limits
    )
    half, most = seconds(values[50]), seconds(values[99])
    summary = f"Half of the requests see at most {half}, 99 in 100 at most {most}."
    for slo in limits:
        within = sum(value <= slo.limit_s for value in values[1:])
        share = "All" if within == 100 else f"About {within}%"
        summary += f" {share} stay within {seconds(slo.limit_s)}."
    low, high = (floor / 1.2, high * 1.3) if log else (min(values[0], 0.9 * floor), high * 1.12)
    across = Axis(f"{short}, log scale" if log else short, "seconds", low, high, log=log)
    up = Axis("share of requests", "percent", 0, 1)
    return Figure(name.removesuffix("_s"), f"{short}: {meaning}", summary, across, up, (line,), rules, marks)


def _statistic(slo: str) -> str:
    """``'ttft_p99_s'`` -> ``'p99'``."""
    return label(slo).split(" ", 1)[-1]
