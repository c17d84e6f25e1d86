"""Clients that give up, and perhaps try again.

Time-outs shed load: what nobody waits for any more leaves room for others. Tries after them bring it back,
and an engine that is late may stay so long after what made it late is over.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from math import inf

from kvplan.engine.arrivals import Arrivals, Relayed
from kvplan.engine.patience import Patience
from kvplan.traces.request import Request

BETWEEN = "~"
"""Between a request's id and the number of a later try (``r7~2``)."""


class Impatient(Relayed):
    """Every client waits for so long, and then sends its request again, a limited number of times.

    A try after the first one is a request of its own to the engine. Only when the last one is over, too, have
    the clients behind ``inner`` their answer, or none.

    Attributes:
        gave_up_s: from sending to giving up, all tries together.
        retries: tries after the first one that were sent.
        lost: requests whose last try had no answer either.

    Args:
        inner: what the clients send for the first time.
        patience: how long they wait for each try.
        retries: tries after the first one, at most.
        again_s: from giving up to the second try; doubled for each one after it.
    """

    def __init__(self, inner: Arrivals, patience: Patience, retries: int = 0, again_s: float = 0.0) -> None:
        super().__init__(inner)
        self.patience = patience
        self.waits = inner.waits or retries > 0
        self.reaction_s = min(inner.reaction_s, again_s) if retries else inner.reaction_s
        self.retries = self.lost = 0
        self.gave_up_s = 0.0
        self._most = retries
        self._again_s = again_s
        self._numbers = count()
        self._due: list[tuple[float, int, Request, int]] = []
        self._sent: dict[str, tuple[Request, float, int]] = {}
        """Tries under way, by their ids: what was asked at first, when this try was sent, which it is."""

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
            now, _, first, tries = heappop(self._due)
            self.retries += 1
            request = first._replace(id=f"{first.id}{BETWEEN}{tries}", arrival_s=now)
        else:
            request = first = self.inner.take()
            tries = 1
        self._sent[request.id] = (first, request.arrival_s, tries)
        return request

    def answered(self, request_id: str, time_s: float) -> None:
        """See the base class."""
        first = self._sent.pop(request_id)[0]
        self.inner.answered(first.id, time_s)

    def gave_up(self, request_id: str, time_s: float) -> None:
        """See the base class."""
        first, sent_s, tries = self._sent.pop(request_id)
        self.gave_up_s += time_s - sent_s
        if tries > self._most:
            self.lost += 1
            self.inner.gave_up(first.id, time_s)
            return
        again = time_s + self._again_s * 2 ** (tries - 1)
        heappush(self._due, (again, next(self._numbers), first, tries + 1))

    def turned_away(self, request_id: str) -> None:
        """See the base class."""
        first = self._sent.pop(request_id)[0]
        self.inner.turned_away(first.id)
