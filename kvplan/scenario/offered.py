"""What clients asked for, apart from what was served, and whether the engine kept up with it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kvplan.engine.recorder import Recorder, SeriesPoint
from kvplan.scenario.summary import quantile
from kvplan.traces.request import Request

FEWEST = 20
"""Requests below which nothing is said about rates."""

FEWEST_ANSWERS = 10
"""Answers, while others wait, on which a sustained rate must rest."""

KEPT_UP = 0.9
"""Share of the offered rate from which on an engine keeps up: less is no chance."""

SHORTEST_QUEUE = 0.25
"""Share of the arrivals' time that a queue must have stood at their end: less is a burst."""


class Offered:
    """The requests of a workload, counted on their way to their clients."""

    def __init__(self) -> None:
        self.prompt_tokens = self.output_tokens = 0
        self.first_s = self.last_s = 0.0
        self.lengths = array("q")

    def counted(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The same requests."""
        lengths = self.lengths
        for request in requests:
            prompt, output = request.prompt_tokens, request.output_tokens
            if not lengths:
                self.first_s = request.arrival_s
            self.last_s = request.arrival_s
            self.prompt_tokens += prompt
            self.output_tokens += output
            lengths.append(prompt + output)
            yield request

    def to_dict(self, recorder: Recorder, *, timed: bool) -> dict[str, Any]:
        """The ``offered`` object of a result.

        Args:
            recorder: of the run, closed.
            timed: whether requests arrived at their own times; otherwise the engine set their pace, and a
                rate says nothing.
        """
        number = len(self.lengths)
        span = self.last_s - self.first_s
        rate = (number - 1) / span if timed and number > 1 and span > 0 else None
        sustained = self._sustained(recorder, rate) if rate is not None else None
        ordered = sorted(self.lengths)
        return {
            "requests": number,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "tokens_mean": sum(ordered) / number if number else None,
            "tokens_p99": quantile(ordered, 0.99) if number else None,
            "requests_per_s": rate,
            "sustained_per_s": sustained,
            "saturated": sustained is not None,
        }

    def _sustained(self, recorder: Recorder, rate: float) -> float | None:
        """Requests per second finished while others waited, where that is less than came; else None.

        Looked at is the queue that stands when the last request arrives: since nobody waited last, until
        nobody waits again. All through it the engine does what it can. A burst is worked off, or stood for
        a short time only; and requests that come within the time that one takes have no rate to speak of.
        """
        totals, number = recorder.totals, len(self.lengths)
        span = self.last_s - self.first_s
        if number < FEWEST or not recorder.e2e_s or span < self._service_s(recorder):
            return None
        begin_s, end_s = queue_at(recorder.series, self.first_s, self.last_s, totals.makespan_s)
        if self.last_s - begin_s < SHORTEST_QUEUE * span:
            return None
        answers = sum(begin_s < time_s <= end_s for time_s in recorder.finish_s)
        if answers < FEWEST_ANSWERS:
            return None
        # A request of several samples counts as several in the totals. Who is turned away takes no time.
        each = totals.requests / number
        sustained = answers / each / (end_s - begin_s)
        taken = 1.0 - totals.rejected / totals.requests
        return sustained if sustained < KEPT_UP * taken * rate else None

    def _service_s(self, recorder: Recorder) -> float:
        """Seconds from a request's turn to its last token, half of the time."""
        took = sorted(whole - waited for whole, waited in zip(recorder.e2e_s, recorder.queue_s, strict=True))
        return quantile(took, 0.5)


def queue_at(
    series: Sequence[SeriesPoint], first_s: float, last_s: float, makespan_s: float
) -> tuple[float, float]:
    """From when to when the queue stood that stands at ``last_s``; ``last_s`` twice where none does."""
    begin_s = first_s
    waits = False
    for point in series:
        if point.t_s > last_s:
            if not waits and not point.waiting:
                return last_s, last_s
            if not point.waiting:
                return begin_s, point.t_s
            waits = True
        else:
            waits = point.waiting > 0
            if not waits:
                begin_s = point.t_s
    return (begin_s, max(last_s, makespan_s)) if waits else (last_s, last_s)
