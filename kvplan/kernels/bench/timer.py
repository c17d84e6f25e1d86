"""Timing a launch: CUDA-graph replays between events on a GPU, one call and a made-up duration in a dry
run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch

Launch = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: quartiles over repetitions, and how many calls stand behind them."""

    median_s: float
    p25_s: float
    p75_s: float
    least_s: float
    repetitions: int
    calls_per_repetition: int

    def row(self) -> dict[str, Any]:
        """As recorded."""
        return asdict(self)


class Timer(Protocol):
    """Something that times calls."""

    def time(self, calls: Sequence[Launch]) -> Timing:
        """Time one call; ``calls`` are the same work on different buffers, run in turn so that none stays
        cached."""


def summarise(samples: Sequence[float], calls: int) -> Timing:
    """Quartiles of seconds per call."""
    if len(samples) < 2:
        return Timing(samples[0], samples[0], samples[0], samples[0], len(samples), calls)
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(middle, low, high, min(samples), len(samples), calls)


class DryTimer:
    """Runs every call once and reports one microsecond: for testing everything but the speed."""

    def time(self, calls: Sequence[Launch]) -> Timing:
        """One call each."""
        for call in calls:
            call()
        return summarise([1e-6, 1e-6], len(calls))


class GraphTimer:
    """Replays a CUDA graph of the calls between two events.

    Replays remove launch gaps, as serving engines do. A graph holds about two milliseconds of work, so that
    the events' resolution (half a microsecond) does not show, and is replayed until at least ``seconds``
    were measured, between 5 and 50 times.
    """

    def __init__(self, seconds: float = 0.02, graph_seconds: float = 2e-3) -> None:
        self.seconds, self.graph_seconds = seconds, graph_seconds

    def time(self, calls: Sequence[Launch]) -> Timing:
        """See ``Timer``. The first calls run outside the graph: they compile and load."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for call in calls[:2]:
                call()
            estimate = _between_events(calls[0])
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        rounds = max(1, min(16, round(self.graph_seconds / max(estimate * len(calls), 1e-7))))
        with torch.cuda.graph(graph):
            for _ in range(rounds):
                for call in calls:
                    call()
        count = rounds * len(calls)
        _between_events(graph.replay)
        first = _between_events(graph.replay)
        repetitions = min(50, max(5, int(self.seconds / max(first, 1e-7))))
        samples = [seconds / count for seconds in _in_a_row(graph.replay, repetitions)]
        graph.reset()
        return summarise(samples, count)


def _between_events(call: Launch) -> float:
    """Seconds that the device took for what one call submits."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def _in_a_row(call: Launch, repetitions: int) -> list[float]:
    """Seconds of each of several calls that the device never waits for: one runs before the first counts."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repetitions + 1)]
    call()
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    events[-1].synchronize()
    return [float(before.elapsed_time(after)) * 1e-3 for before, after in pairwise(events)]


class EventTimer:
    """Eager calls between events, for what cannot be captured: copies, compiled peers, launch overhead."""

    def __init__(self, repetitions: int = 20) -> None:
        self.repetitions = repetitions

    def time(self, calls: Sequence[Launch]) -> Timing:
        """See ``Timer``."""
        for call in calls[:3]:
            call()
        torch.cuda.synchronize()

        def every() -> None:
            for call in calls:
                call()

        samples = [_between_events(every) / len(calls) for _ in range(self.repetitions)]
        return summarise(samples, len(calls))
