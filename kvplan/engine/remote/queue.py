"""The waiting queue of an engine with loads: requests that hold blocks stand before all others."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sized

from kvplan.engine.config import Policy
from kvplan.engine.live import LiveRequest
from kvplan.engine.waiting import make_queue


class Transfer:
    """Something a worker copies; ``done_s`` is when it has ended, of which the scheduler may hear later."""

    __slots__ = ("done_s",)

    def __init__(self) -> None:
        self.done_s = -1.0


class Load(Transfer):
    """KV of one request on its way to the device.

    Attributes:
        number: loads are numbered in the order in which they begin.
        start: tokens the device had; tokens: tokens that come.
        began_s: when the fetch began.
        settled: it has come, and what it brought is in the prefix cache.
    """

    __slots__ = ("began_s", "number", "request", "settled", "start", "tokens")

    def __init__(self, number: int, request: LiveRequest, start: int, tokens: int) -> None:
        super().__init__()
        self.number = number
        self.request = request
        self.start = start
        self.tokens = tokens
        self.began_s = -1.0
        self.settled = False


class LoadingQueue:
    """vLLM's two queues: ``kv_holding_waiting`` (loads) is looked at first, then the plain queue.

    Loads that are still on their way are counted, but nobody looks at them. Those that have come stand in
    the order in which they began (or by priority, under that policy).
    """

    def __init__(self, policy: Policy) -> None:
        self.plain = make_queue(policy)
        self.loading: dict[LiveRequest, Load] = {}
        self.orphaned: dict[LiveRequest, Load] = {}
        """Loads of requests that nobody waits for; they hold their blocks until they have come."""
        self.loaded: list[tuple[int, float, str, int, Load]] = []
        self._postponed: list[tuple[int, float, str, int, Load]] = []
        self._by_priority = policy == "priority"

    def __len__(self) -> int:
        return len(self.loading) + len(self.loaded) + len(self.plain)

    def __bool__(self) -> bool:
        return bool(self.loading or self.loaded or self.plain.items)

    @property
    def items(self) -> Sized:
        """See ``WaitingQueue``."""
        return self.loaded or self.plain.items

    @property
    def holders(self) -> list[LiveRequest]:
        """Requests that hold blocks without running."""
        return [*self.loading, *(item[4].request for item in (*self._postponed, *self.loaded))]

    def begin(self, load: Load) -> None:
        """A load begins; its request has left the queue."""
        self.loading[load.request] = load

    def arrived(self, load: Load) -> None:
        """A load is on the device: its request is looked at again."""
        del self.loading[load.request]
        facts = load.request.request
        key = (facts.priority, facts.arrival_s, facts.id) if self._by_priority else (0, 0.0, "")
        insort(self.loaded, (*key, load.number, load))

    def postpone(self) -> None:
        """The head, which has loaded, is passed over until ``recall``."""
        self._postponed.append(self.loaded.pop(0))

    def recall(self) -> None:
        """Whoever was postponed stands at the head again."""
        self.loaded[:0] = self._postponed
        self._postponed.clear()

    def drop(self, request: LiveRequest) -> None:
        """Take out a request, whatever it does."""
        if request in self.loading:
            self.orphaned[request] = self.loading.pop(request)
            return
        for place, item in enumerate(self.loaded):
            if item[4].request is request:
                del self.loaded[place]
                return
        self.plain.remove(request)

    def append(self, request: LiveRequest) -> None:
        """A new request."""
        self.plain.append(request)

    def push_front(self, request: LiveRequest) -> None:
        """A preempted or skipped request, which holds nothing."""
        self.plain.push_front(request)

    def head(self) -> LiveRequest:
        """The request to look at next."""
        return self.loaded[0][4].request if self.loaded else self.plain.head()

    def pop(self) -> LiveRequest:
        """Remove and return the head."""
        return self.loaded.pop(0)[4].request if self.loaded else self.plain.pop()

    def remove(self, request: LiveRequest) -> None:
        """Take out a request that holds nothing."""
        self.plain.remove(request)
