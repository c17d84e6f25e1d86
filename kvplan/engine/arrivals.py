"""Requests on their way to an engine, with a look at the next one.

Engines do not loop over requests but ask when the next one arrives. In an open loop that is known
beforehand; where clients wait for answers (``kvplan.engine.clients``) it may become known, or earlier,
whenever somebody is answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING, Protocol

from kvplan.traces.request import Request

if TYPE_CHECKING:
    from kvplan.engine.patience import Patience
    from kvplan.engine.protocols import LatencyModel, StepBatch
    from kvplan.engine.recorder import Recorder


class Arrivals:
    """Requests that arrive at their own times, whatever happens to those before.

    Attributes:
        waits: whether requests may depend on answers: then an engine must not be taken further than to the
            next answer before ``next_s`` is looked at again.
        reaction_s: a request that an answer brings about arrives no sooner than so long after it.
        patience: how long clients wait for an answer; None: for ever.
        streams: whether tokens, too, take time on their way (``kvplan.engine.streaming``): it must be told of
            every step, and ``next_s`` is sure only up to what ``passed`` was told.
        held_s: seconds from engine to client of the first token of the request that finished last.

    Args:
        requests: in the order in which they arrive.
    """

    waits = False
    streams = False
    held_s = 0.0
    reaction_s = inf
    patience: Patience | None = None

    def __init__(self, requests: Iterable[Request]) -> None:
        self._source: Iterator[Request] = iter(requests)
        self._next = next(self._source, None)

    @property
    def next_s(self) -> float:
        """When the next request arrives; infinite when none is left, or none that is known of yet."""
        request = self._next
        return inf if request is None else request.arrival_s

    @property
    def next_prompt_tokens(self) -> int:
        """Prompt tokens of the request that arrives at ``next_s``, which must be finite."""
        assert self._next is not None, "nobody arrives"
        return self._next.prompt_tokens

    @property
    def hears(self) -> bool:
        """Whether it must be told of what becomes of requests."""
        return self.waits or self.patience is not None

    @property
    def over(self) -> bool:
        """Whether no request will ever come again."""
        return self._next is None

    def take(self) -> Request:
        """The next request, which arrives now."""
        request = self._next
        assert request is not None, "nobody arrives"
        self._next = next(self._source, None)
        return request

    def ahead(self) -> Iterator[Request]:
        """Every request that is still to come, in order; they stay to be taken.

        Nothing may be taken before the iterator is exhausted, and they are all kept in memory.
        """
        kept = [] if self._next is None else [self._next]
        yield from kept
        for request in self._source:
            kept.append(request)
            yield request
        self._source = iter(kept)
        self._next = next(self._source, None)

    def stepped(self, seconds: float, batch: StepBatch, early_s: float) -> None:
        """The engine takes a step of so long next, whose outputs leave ``early_s`` before its end."""

    def passed(self, now: float) -> None:
        """The engine has been taken to ``now``: nothing happens in it before."""

    def due(self, now: float) -> bool:
        """Whether the next request is there, the engine having been taken to ``now``."""
        self.passed(now)
        return self.next_s <= now

    def delivered(self, request_id: str, first_s: float, finish_s: float) -> tuple[float, float]:
        """When the first and the last token reach their client that leave the engine then."""
        return first_s, finish_s

    def answered(self, request_id: str, time_s: float) -> None:
        """A request's last token was there at ``time_s``."""

    def gave_up(self, request_id: str, time_s: float) -> bool:
        """The client of a request stopped waiting for its answer at ``time_s``; the engine drops it.

        Returns whether the client will try again.
        """
        return False

    def first_sent_s(self, request_id: str) -> float | None:
        """When what a request under way asks was sent for the first time; None where that is its arrival."""
        return None

    def turned_away(self, request_id: str) -> None:
        """The engine refused the request that was taken last."""


class Relayed(Arrivals):
    """Arrivals that come by way of somebody who changes something about them.

    Attributes:
        inner: whose they are.
    """

    def __init__(self, inner: Arrivals) -> None:
        self.inner = inner
        self.waits = inner.waits
        self.reaction_s = inner.reaction_s
        self.patience = inner.patience
        self.streams = inner.streams

    def stepped(self, seconds: float, batch: StepBatch, early_s: float) -> None:
        """See the base class."""
        self.inner.stepped(seconds, batch, early_s)

    def passed(self, now: float) -> None:
        """See the base class."""
        self.inner.passed(now)

    def delivered(self, request_id: str, first_s: float, finish_s: float) -> tuple[float, float]:
        """See the base class."""
        return self.inner.delivered(request_id, first_s, finish_s)

    @property
    def next_s(self) -> float:
        """See the base class."""
        return self.inner.next_s

    @property
    def next_prompt_tokens(self) -> int:
        """See the base class."""
        return self.inner.next_prompt_tokens

    @property
    def hears(self) -> bool:
        """See the base class."""
        return self.waits or self.patience is not None or self.inner.hears

    @property
    def over(self) -> bool:
        """See the base class."""
        return self.inner.over

    def take(self) -> Request:
        """See the base class."""
        return self.inner.take()

    def ahead(self) -> Iterator[Request]:
        """See the base class."""
        return self.inner.ahead()

    def answered(self, request_id: str, time_s: float) -> None:
        """See the base class."""
        self.inner.answered(request_id, time_s)

    def gave_up(self, request_id: str, time_s: float) -> bool:
        """See the base class."""
        return self.inner.gave_up(request_id, time_s)

    def first_sent_s(self, request_id: str) -> float | None:
        """See the base class."""
        return self.inner.first_sent_s(request_id)

    def turned_away(self, request_id: str) -> None:
        """See the base class."""
        self.inner.turned_away(request_id)


def arrivals_of(requests: Iterable[Request] | Arrivals, recorder: Recorder) -> Arrivals:
    """Requests as an engine wants to see them; who waits for answers hears of what the recorder is told."""
    arrivals = requests if isinstance(requests, Arrivals) else Arrivals(requests)
    recorder.tell(arrivals)
    return arrivals


class Stepped(Protocol):
    """An engine with one clock, which is taken from arrival to arrival.

    Attributes:
        clock: simulated seconds.
        stops: whether ``advance`` ends with the first step that brings a last token, or with which a client
            is seen to have given up, as others may act on it.
        stopped: whether the last ``advance`` ended so.
    """

    clock: float
    stops: bool
    stopped: bool

    def expect(self, patience: Patience) -> None:
        """Clients wait so long; must be said before the first request."""

    def advance(self, until: float) -> None:
        """Go on until the clock is at ``until`` or later, or nothing is left to do; see also ``stops``.

        Whoever gave up before that has been told of, and may have sent something since.
        """

    def push(self, request: Request) -> None:
        """A request arrives; ``advance`` must have been called up to its arrival."""


class Clocked(Protocol):
    """Whatever asks how long steps take."""

    latency: LatencyModel


def tell_steps(engine: Clocked, arrivals: Arrivals) -> None:
    """From now on, arrivals that must hear of an engine's steps do.

    One whose outputs leave before a step's drafts are made says so with ``outputs_first``.
    """
    if arrivals.streams:
        from kvplan.engine.streaming import Streamed

        early = bool(getattr(engine, "outputs_first", False))
        engine.latency = Streamed(engine.latency, arrivals.stepped, early=early)


def serve(engine: Stepped, arrivals: Arrivals) -> None:
    """Take an engine through all arrivals, and on until nothing is left to do."""
    engine.stops = arrivals.waits
    streams = arrivals.streams
    if arrivals.patience is not None:
        engine.expect(arrivals.patience)
    while True:
        if streams:
            arrivals.passed(engine.clock)
        due = arrivals.next_s
        if engine.clock < due:
            engine.advance(due)
            if engine.stopped:
                continue
            if due == inf:
                return
            if streams:
                # Where nothing was left to do the engine's clock has not come so far.
                arrivals.passed(max(due, engine.clock))
                if arrivals.next_s > due:
                    continue
        engine.push(arrivals.take())
