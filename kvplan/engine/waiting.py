"""The waiting queue, in arrival order or by priority."""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from heapq import heappop, heappush
from typing import Protocol

from kvplan.engine.config import Policy
from kvplan.engine.live import LiveRequest


class WaitingQueue(Protocol):
    """Requests that wait, in the order in which they are looked at."""

    @property
    def items(self) -> Sized:
        """Those that can be looked at; only asked whether there are any."""
        ...

    def __len__(self) -> int: ...

    def append(self, request: LiveRequest) -> None:
        """A new request."""
        ...

    def push_front(self, request: LiveRequest) -> None:
        """A preempted or skipped request."""
        ...

    def head(self) -> LiveRequest:
        """The request to look at next."""
        ...

    def pop(self) -> LiveRequest:
        """Remove and return the head."""
        ...

    def remove(self, request: LiveRequest) -> None:
        """Take a request out from wherever it stands."""
        ...


class FcfsQueue(deque[LiveRequest]):
    """Arrival order; preempted requests go to the front. Its length is asked for in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.items = self

    push_front = deque.appendleft
    pop = deque.popleft

    def head(self) -> LiveRequest:
        """The request to look at next."""
        return self[0]


class PriorityQueue:
    """By (priority, arrival, request id as text), lowest first, wherever a request comes from."""

    def __init__(self) -> None:
        self.items: list[tuple[int, float, str, LiveRequest]] = []
        self._gone: set[LiveRequest] = set()
        """Requests that were taken out and are still listed; the first one listed is none of them."""

    def __len__(self) -> int:
        return len(self.items) - len(self._gone)

    def append(self, request: LiveRequest) -> None:
        """A new, preempted or skipped request."""
        facts = request.request
        heappush(self.items, (facts.priority, facts.arrival_s, facts.id, request))

    push_front = append

    def head(self) -> LiveRequest:
        """The request to look at next."""
        return self.items[0][3]

    def pop(self) -> LiveRequest:
        """Remove and return the head."""
        request = heappop(self.items)[3]
        self._forget()
        return request

    def remove(self, request: LiveRequest) -> None:
        """Take a request out from wherever it stands; it does not come back."""
        self._gone.add(request)
        self._forget()

    def _forget(self) -> None:
        items, gone = self.items, self._gone
        while gone and items and items[0][3] in gone:
            gone.remove(heappop(items)[3])


def make_queue(policy: Policy) -> WaitingQueue:
    """The queue of a scheduling policy."""
    return FcfsQueue() if policy == "fcfs" else PriorityQueue()
