"""What a trace is like: rates, burstiness, lengths, reuse.

Rate = requests / (last - first arrival). CV = standard deviation / mean of the gaps between arrivals.
IoD (index of dispersion) = variance / mean of the counts per second. Percentiles interpolate linearly.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kvplan.traces.request import Request
from kvplan.traces.reuse import CAPACITIES, ContentBound, LruCurve, LruDistances, Reuse
from kvplan.traces.trace import Trace

DEFAULT_BLOCK_SIZE = 16
_MAX_SECONDS = 10_000_000


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution of token counts."""

    total: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: int


@dataclass(frozen=True, slots=True)
class Timing:
    """A distribution of arrivals; ``None`` where it is not defined (too few, or all at once).

    Attributes:
        span_s: last minus first arrival.
        rate_per_s: requests over the span.
        gap_cv: standard deviation over mean of the gaps.
        dispersion: variance over mean of the counts in 1-second windows.
        distinct_arrivals: distinct arrival times; many fewer than requests means a coarse clock.
        largest_clump: most requests at one instant.
        busiest_minute, quietest_minute: requests in whole minutes from the first arrival.
    """

    span_s: float
    rate_per_s: float | None
    gap_cv: float | None
    dispersion: float | None
    distinct_arrivals: int
    largest_clump: int
    busiest_minute: int | None
    quietest_minute: int | None


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """Everything ``kvplan trace describe`` says about the requests; ``reuse`` is ``None`` when unknown."""

    requests: int
    sessions: int
    timing: Timing
    input_tokens: Spread
    output_tokens: Spread
    reuse: Reuse | None
    lru: LruCurve | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; unknown reuse is the word, never 0."""
        document: dict[str, Any] = {
            "requests": self.requests,
            "sessions": self.sessions,
            "timing": asdict(self.timing),
            "input_tokens": asdict(self.input_tokens),
            "output_tokens": asdict(self.output_tokens),
            "reuse": "unknown",
        }
        if self.reuse is not None:
            document["reuse"] = {
                **asdict(self.reuse),
                "block_hit_ratio": self.reuse.block_hit_ratio,
                "token_hit_ratio": self.reuse.token_hit_ratio,
                "lru": None if self.lru is None else _lru_dict(self.lru),
            }
        return document


def _lru_dict(lru: LruCurve) -> dict[str, Any]:
    return {
        "token_hit_ratio": {str(capacity): ratio for capacity, ratio in lru.hit_ratio.items()},
        "distance_p50_blocks": lru.distance_p50,
        "distance_p90_blocks": lru.distance_p90,
    }


def measure(
    requests: Iterable[Request],
    *,
    block_size: int | None = DEFAULT_BLOCK_SIZE,
    lru: bool = True,
    capacities: Sequence[int] = CAPACITIES,
) -> TraceStatistics:
    """Statistics of requests in the order of arrival, in one pass.

    Args:
        block_size: tokens per block for reuse; ``None`` leaves reuse unknown.
        lru: also find reuse distances and the LRU curve (bounded; see ``MAX_LRU_REFERENCES``).
        capacities: cache sizes of the curve, in blocks.
    """
    arrivals, inputs, outputs = array("d"), array("q"), array("q")
    sessions: set[str] = set()
    bound = ContentBound(block_size) if block_size else None
    distances = LruDistances(block_size) if block_size and lru else None
    for request in requests:
        arrivals.append(request.arrival_s)
        inputs.append(request.prompt_tokens)
        outputs.append(request.output_tokens)
        if request.session is not None:
            sessions.add(request.session)
        if bound is not None:
            bound.add(request)
        if distances is not None:
            distances.add(request)
    return TraceStatistics(
        requests=len(arrivals),
        sessions=len(sessions),
        timing=timing(arrivals),
        input_tokens=spread(inputs),
        output_tokens=spread(outputs),
        reuse=None if bound is None else bound.result(),
        lru=None if distances is None else distances.curve(capacities),
    )


def measure_trace(
    trace: Trace,
    *,
    block_size: int | None = None,
    lru: bool = True,
    capacities: Sequence[int] = CAPACITIES,
    watch: Callable[[Iterator[Request]], Iterator[Request]] = iter,
) -> TraceStatistics:
    """Statistics of a trace at its own block size; reuse is unknown when any prompt's content is.

    A trace without ids from its first request on costs no bookkeeping of content. ``watch`` is handed the
    requests and hands them on.
    """
    requests = watch(trace.requests())
    first = next(requests, None)
    known = trace.reuse_known
    block = block_size or trace.block_size or DEFAULT_BLOCK_SIZE
    everything = requests if first is None else _chain(first, requests)
    found = measure(everything, block_size=block if known else None, lru=lru, capacities=capacities)
    if known and not trace.reuse_known:
        return TraceStatistics(
            found.requests,
            found.sessions,
            found.timing,
            found.input_tokens,
            found.output_tokens,
            None,
            None,
        )
    return found


def _chain(first: Request, rest: Iterator[Request]) -> Iterator[Request]:
    yield first
    yield from rest


def timing(arrivals: Sequence[float]) -> Timing:
    """How sorted arrivals are spread over time."""
    count = len(arrivals)
    span = arrivals[-1] - arrivals[0] if count else 0.0
    distinct = clump = run = 0
    previous = -math.inf
    for now in arrivals:
        run = run + 1 if now == previous else 1
        distinct += run == 1
        clump = max(clump, run)
        previous = now
    if not span > 0.0:
        return Timing(span, None, None, None, distinct, clump, None, None)
    mean = span / (count - 1)
    squares = math.fsum((arrivals[i] - arrivals[i - 1] - mean) ** 2 for i in range(1, count))
    cv = math.sqrt(squares / (count - 1)) / mean
    dispersion = None
    busiest = quietest = None
    if span < _MAX_SECONDS:
        seconds = _counts(arrivals, 1.0)
        average = count / len(seconds)
        dispersion = sum((n - average) ** 2 for n in seconds) / len(seconds) / average
        minutes = _counts(arrivals, 60.0)[: int(span // 60.0)]
        if minutes:
            busiest, quietest = max(minutes), min(minutes)
    return Timing(span, count / span, cv, dispersion, distinct, clump, busiest, quietest)


def _counts(arrivals: Sequence[float], width_s: float) -> list[int]:
    first = arrivals[0]
    counts = [0] * (int((arrivals[-1] - first) / width_s) + 1)
    for now in arrivals:
        counts[int((now - first) / width_s)] += 1
    return counts


def spread(values: Sequence[int]) -> Spread:
    """Mean and percentiles of token counts."""
    if not values:
        return Spread(0, 0.0, 0.0, 0.0, 0.0, 0)
    ordered = sorted(values)
    total = sum(ordered)
    p50, p90, p99 = (quantile(ordered, q) for q in (0.5, 0.9, 0.99))
    return Spread(total, total / len(ordered), p50, p90, p99, ordered[-1])


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values, interpolated linearly between neighbours (numpy's default)."""
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
