"""The waiting queue, in arrival order or by priority."""

from __future__ import annotations

from kvplan.engine.config import Policy
from kvplan.engine.reference.state import RequestState


class WaitingQueue:
    """fcfs: a deque. priority: by (priority, arrival, request id as text), lowest first."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._items: list[RequestState] = []

    def __len__(self) -> int:
        return len(self._items)

    def append(self, state: RequestState) -> None:
        """A new request."""
        self._items.append(state)

    def push_front(self, state: RequestState) -> None:
        """A preempted or skipped request: before all others under fcfs, by its priority otherwise."""
        self._items.insert(0, state)

    def head(self) -> RequestState:
        """The request to look at next."""
        return self._items[self._head_index()]

    def pop(self) -> RequestState:
        """Remove and return the head."""
        return self._items.pop(self._head_index())

    def remove(self, state: RequestState) -> None:
        """Take a request out from wherever it stands."""
        self._items.remove(state)

    def _head_index(self) -> int:
        if self.policy == "fcfs":
            return 0
        return min(
            range(len(self._items)),
            key=lambda i: (
                self._items[i].request.priority,
                self._items[i].request.arrival_s,
                self._items[i].request.id,
            ),
        )
