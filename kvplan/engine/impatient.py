"""Clients that give up, and perhaps try again.

Time-outs shed load: what nobody waits for any more leaves room for others. Tries after them bring it back,
and an engine that is late may stay so long after what made it late is over.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import NamedTuple

from kvplan.engine.arrivals import Arrivals, Relayed
from kvplan.engine.patience import Patience
from kvplan.traces.request import Request

BETWEEN = "~"
"""Between a request's id and the number of a later try (``r7~2``)."""


LONGEST_WAIT_S = 60.0
"""A client does not wait for longer before it tries again, unless it is told to from the start."""


class _Try(NamedTuple):
    """What was asked, when for the first time and when this time, and which try it is."""

    request: Request
    first_s: float
    sent_s: float
    number: int


class Impatient(Relayed):
    """Every client waits for so long, and then sends its request again, a limited number of times.

    A try after the first one is a request of its own to the engine. Only when the last one is over, too, have
    the clients behind ``inner`` their answer, or none.

    Attributes:
        gave_up_s: from sending to giving up, all tries together; answered_s: to the answers.
        times: how often a client gave up.
        retries: tries after the first one that were sent.
        lost: requests whose last try had no answer either.

    Args:
        inner: what the clients send for the first time.
        patience: how long they wait for each try.
        retries: tries after the first one, at most.
        again_s: from giving up to the second try; doubled for each one after it, up to ``LONGEST_WAIT_S``.
        outside_s: the client's and the network's part of each answer: a client gives up so much later than
            the engine is out of time.
    """

    def __init__(
        self,
        inner: Arrivals,
        patience: Patience,
        retries: int = 0,
        again_s: float = 0.0,
        outside_s: float = 0.0,
    ) -> None:
        super().__init__(inner)
        self.patience = patience
        self.waits = inner.waits or retries > 0
        self.reaction_s = min(inner.reaction_s, again_s + outside_s) if retries else inner.reaction_s
        self.times = self.retries = self.lost = 0
        self.gave_up_s = self.answered_s = 0.0
        self._most = retries
        self._again_s = again_s
        self._outside_s = outside_s
        self._numbers = count()
        self._due: list[tuple[float, int, _Try]] = []
        self._sent: dict[str, _Try] = {}
        """Tries under way, by their ids."""

    @property
    def next_s(self) -> float:
        """See the base class."""
        own_s = self._due[0][0] if self._due else inf
        return min(own_s, self.inner.next_s)

    @property
    def over(self) -> bool:
        """See the base class; whoever waits may try again."""
        return self.inner.over and not self._due and not (self._most and self._sent)

    def take(self) -> Request:
        """See the base class."""
        if self._due and self._due[0][0] <= self.inner.next_s:
            now, _, attempt = heappop(self._due)
            self.retries += 1
            request = attempt.request._replace(
                id=f"{attempt.request.id}{BETWEEN}{attempt.number}", arrival_s=now
            )
        else:
            request = self.inner.take()
            attempt = _Try(request, request.arrival_s, request.arrival_s, 1)
        while request.id in self._sent:  # a trace may call another request so
            request = request._replace(id=request.id + BETWEEN)
        self._sent[request.id] = attempt
        return request

    def first_sent_s(self, request_id: str) -> float | None:
        """See the base class."""
        attempt = self._sent[request_id]
        sent_s = self.inner.first_sent_s(attempt.request.id)
        return attempt.first_s if sent_s is None and attempt.number > 1 else sent_s

    def answered(self, request_id: str, time_s: float) -> None:
        """See the base class."""
        attempt = self._sent.pop(request_id)
        self.answered_s += time_s - attempt.sent_s
        self.inner.answered(attempt.request.id, time_s)

    def gave_up(self, request_id: str, time_s: float) -> bool:
        """See the base class."""
        attempt = self._sent.pop(request_id)
        self.times += 1
        self.gave_up_s += time_s - attempt.sent_s
        if attempt.number > self._most:
            self.lost += 1
            return self.inner.gave_up(attempt.request.id, time_s)
        longest_s = max(self._again_s, LONGEST_WAIT_S)
        wait_s = min(self._again_s * 2.0 ** (attempt.number - 1), longest_s)
        again = time_s + self._outside_s + wait_s
        following = attempt._replace(sent_s=again, number=attempt.number + 1)
        heappush(self._due, (again, next(self._numbers), following))
        return True

    def turned_away(self, request_id: str) -> None:
        """See the base class."""
        attempt = self._sent.pop(request_id)
        self.inner.turned_away(attempt.request.id)
