"""The only writer of results: per-request rows, decision lines, counters, time series.

Both engines report the same facts here, so that what is compared is what is written.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import sub
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from kvplan.engine.arrivals import Arrivals

MAX_SERIES_POINTS = 1000
_BATCH = 1024
UNHELD = nullcontext()
_NEVER = 1 << 62


class RequestRow(NamedTuple):
    """What happened to one finished request; times in seconds since the start of the trace."""

    id: str
    arrival_s: float
    scheduled_s: float
    first_token_s: float
    finish_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    preemptions: int


class SeriesPoint(NamedTuple):
    """State of the engine after a ``schedule()`` call; the last three fields are running totals."""

    t_s: float
    used_blocks: int
    cached_blocks: int
    running: int
    waiting: int
    queried_tokens: int
    hit_tokens: int
    preemptions: int


class Counters(Protocol):
    """Running totals that every scheduler keeps."""

    queried_tokens: int
    hit_tokens: int
    preemptions: int


class Metric(NamedTuple):
    """One figure of a strategy: ``value`` in ``unit`` ("bytes", "s", "blocks", "1", ...); what it means."""

    name: str
    value: int | float | str | None
    unit: str
    meaning: str


OF_SCHEDULERS = (
    "queried_tokens", "hit_tokens", "preemptions", "evicted_blocks", "allocated_blocks", "peak_used_blocks",
    "peak_running", "peak_waiting",
)  # fmt: skip
"""What each of several instances counts for itself."""


class Totals:
    """Counters of a whole run."""

    __slots__ = (
        "allocated_blocks",
        "evicted_blocks",
        "finished",
        "hit_tokens",
        "makespan_s",
        "output_tokens",
        "peak_running",
        "peak_used_blocks",
        "peak_waiting",
        "preemptions",
        "prompt_tokens",
        "queried_tokens",
        "rejected",
        "requests",
        "steps",
        "timed_out",
        "unfinished",
    )

    def __init__(self) -> None:
        self.requests = self.finished = self.rejected = self.timed_out = self.unfinished = 0
        self.steps = self.prompt_tokens = self.output_tokens = 0
        self.queried_tokens = self.hit_tokens = 0
        self.preemptions = self.evicted_blocks = self.allocated_blocks = 0
        self.peak_used_blocks = self.peak_running = self.peak_waiting = 0
        self.makespan_s = 0.0

    def add_up(self, names: Iterable[str], parts: Sequence[Totals]) -> None:
        """Take the sums over several instances; of peaks, an upper bound of the peak of the sum."""
        for name in names:
            setattr(self, name, sum(getattr(part, name) for part in parts))

    def to_dict(self) -> dict[str, int | float]:
        """The ``totals`` object of a result, in the order of its contract."""
        order = (
            "requests", "finished", "rejected", "timed_out", "unfinished", "steps", "prompt_tokens",
            "output_tokens", "queried_tokens", "hit_tokens", "preemptions", "evicted_blocks",
            "allocated_blocks", "peak_used_blocks", "peak_running", "peak_waiting", "makespan_s",
        )  # fmt: skip
        return {name: getattr(self, name) for name in order}


def decision_line(
    scheduled: Iterable[tuple[str, int]], free: int, running: int, waiting: int, preempted: Iterable[str]
) -> str:
    """What a step decided, as the decision log has it.

    Args:
        scheduled: ids and tokens of the requests in the batch, in batch order.
        free: blocks (SGLang: tokens) that nobody references, cached ones included.
        running: requests that hold KV.
        waiting: requests that wait.
        preempted: ids of those preempted (SGLang: retracted), in the order it happened.
    """
    tokens = ",".join(f"{request}={count}" for request, count in scheduled)
    return f"{tokens}|{free}|{running}|{waiting}|{','.join(preempted)}"


class Recorder:
    """Collects a run.

    Finished requests are counted in batches, the last one by ``close`` or ``settle``.

    Args:
        on_request: called with each finished request, in the order they finish.
        on_rejected: called with the id of each request that was turned away, the reason, and when; None:
            at once, by the front end.
        on_timed_out: called with the id of each request whose client gave up, and when; may say that the
            client will try again, as ``timed_out`` of another recorder does.
        on_decision: called with each line of the decision log (without its newline). ``None``: no log,
            which is much faster.
        outside: what the client of a finished request waited for beside the engine, by its id, in seconds;
            ``None`` where that is the same for all.
        held: entered for what is recorded in several steps and must not be left half done; whoever
            interrupts waits until it is left.
        series: whether anybody will look at the series; engines take more steps at once where nobody does.
    """

    def __init__(
        self,
        *,
        on_request: Callable[[RequestRow], None] | None = None,
        on_rejected: Callable[[str, str, float | None], None] | None = None,
        on_timed_out: Callable[[str, float], bool | None] | None = None,
        on_decision: Callable[[str], None] | None = None,
        outside: Callable[[str], float] | None = None,
        held: AbstractContextManager[None] = UNHELD,
        series: bool = True,
    ) -> None:
        def decided(line: str) -> None:
            assert on_decision is not None
            with held:
                on_decision(line)

        self.totals = Totals()
        self.on_decision = None if on_decision is None else on_decision if held is UNHELD else decided
        self._held = held
        self._finished: list[RequestRow] = []
        self._on_request = on_request
        self._on_rejected = on_rejected
        self._on_timed_out = on_timed_out
        self._outside = outside
        self._clients: Arrivals | None = None
        self.queue_s = array("d")
        self.ttft_s = array("d")
        self.tpot_s = array("d")
        self.e2e_s = array("d")
        self.finish_s = array("d")
        self.outside_s = array("d")
        """A number for each finished request where ``outside`` is given; no part of the other times."""
        self.series: list[SeriesPoint] = []
        self.series_stride = 1 if series else _NEVER
        self.rejections: dict[str, int] = {}
        self.sections: dict[str, list[Metric]] = {}
        """What strategies report beside the totals, by section; written when the engine closes."""

    def of_member(self, index: int, *, series: bool) -> Recorder:
        """For one of several instances: it passes on what happens."""
        log = self.on_decision
        return Recorder(
            on_request=self.finished,
            on_rejected=self.rejected,
            on_timed_out=self.timed_out,
            on_decision=None if log is None else (lambda line: log(f"{index}\t{line}")),
            series=series,
        )

    def tell(self, arrivals: Arrivals) -> None:
        """From now on, who waits for answers hears of them."""
        self._clients = arrivals if arrivals.hears else None

    def finished(self, row: RequestRow) -> None:
        """A request delivered its last token; it is counted and written, or neither."""
        if self._clients is not None:
            first_s = self._clients.first_sent_s(row.id)
            if first_s is not None:
                row = row._replace(arrival_s=first_s)
            if self._clients.streams:
                seen_s, last_s = self._clients.delivered(row.id, row.first_token_s, row.finish_s)
                row = row._replace(first_token_s=seen_s, finish_s=last_s)
            self._clients.answered(row.id, row.finish_s)
        if self._on_request is None:
            self._finished.append(row)
        else:
            with self._held:
                self._finished.append(row)
                self._on_request(row)
        if len(self._finished) >= _BATCH:
            self.settle()

    def settle(self) -> None:
        """Count the requests that have finished."""
        with self._held:
            totals = self.totals
            if self._finished:
                self._count(self._finished)
                self._finished = []
            totals.unfinished = totals.requests - totals.finished - totals.rejected - totals.timed_out

    def _count(self, rows: list[RequestRow]) -> None:
        totals = self.totals
        _, arrival, scheduled, first, finish, prompt, output, _, _ = zip(*rows, strict=True)
        totals.finished += len(rows)
        totals.prompt_tokens += sum(prompt)
        totals.output_tokens += sum(output)
        totals.makespan_s = max(totals.makespan_s, *finish)
        self.queue_s.extend(map(sub, scheduled, arrival))
        self.ttft_s.extend(map(sub, first, arrival))
        self.e2e_s.extend(map(sub, finish, arrival))
        self.finish_s.extend(finish)
        if self._outside is not None:
            self.outside_s.extend(self._outside(row.id) for row in rows)
        # Time per output token after the first, the usual definition of TPOT.
        self.tpot_s.extend(
            [(end - begin) / (n - 1) for begin, end, n in zip(first, finish, output, strict=True) if n > 1]
        )

    def rejected(self, request_id: str, reason: str, time_s: float | None = None) -> None:
        """A request was turned away; at ``time_s``, or at once: the front end did, so that it never reached
        the scheduler."""
        if self._clients is not None and time_s is None:
            self._clients.turned_away(request_id)
        elif self._clients is not None and time_s is not None:
            self._clients.answered(request_id, time_s)
        with self._held:
            self.totals.rejected += 1
            self.rejections[reason] = self.rejections.get(reason, 0) + 1
            if self._on_rejected is not None:
                self._on_rejected(request_id, reason, time_s)

    def timed_out(self, request_id: str, time_s: float) -> bool:
        """A request's client gave up at ``time_s``; it has no row, and no part in any latency.

        One who will try again is not counted: the next try is. Returns whether that is so.
        """
        again = self._clients is not None and self._clients.gave_up(request_id, time_s)
        with self._held:
            if self._on_timed_out is not None and self._on_timed_out(request_id, time_s):
                again = True
            if again:
                self.totals.requests -= 1
            else:
                self.totals.timed_out += 1
            self.totals.makespan_s = max(self.totals.makespan_s, time_s)
        return again

    def occupancy(self, used: int, running: int, waiting: int) -> None:
        """Blocks that running requests hold, and requests, after a ``schedule()`` call."""
        totals = self.totals
        if used > totals.peak_used_blocks:
            totals.peak_used_blocks = used
        if running > totals.peak_running:
            totals.peak_running = running
        if waiting > totals.peak_waiting:
            totals.peak_waiting = waiting

    def step(
        self, clock: float, used: int, cached: int, running: int, waiting: int, counters: Counters
    ) -> None:
        """A step was planned at ``clock``, with the state after it; empty steps are not counted."""
        totals = self.totals
        if self.wants_point(totals.steps):
            self.point(
                SeriesPoint(
                    clock, used, cached, running, waiting,
                    counters.queried_tokens, counters.hit_tokens, counters.preemptions,
                )
            )  # fmt: skip
        totals.steps += 1

    def wants_point(self, step: int) -> bool:
        """Whether the state after step number ``step`` (from 0) belongs into the series."""
        return step % self.series_stride == 0

    def point(self, point: SeriesPoint) -> None:
        """Append to the series; when it is full, keep every other point and sample half as often."""
        self.series.append(point)
        if len(self.series) > MAX_SERIES_POINTS:
            del self.series[1::2]
            self.series_stride *= 2

    def close(self, counters: Counters, evicted_blocks: int, allocated_blocks: int) -> None:
        """Bring the totals up to date with a scheduler; also after an interrupted run."""
        totals = self.totals
        totals.queried_tokens = counters.queried_tokens
        totals.hit_tokens = counters.hit_tokens
        totals.preemptions = counters.preemptions
        totals.evicted_blocks = evicted_blocks
        totals.allocated_blocks = allocated_blocks
        self.settle()
