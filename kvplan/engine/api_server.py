"""The process in front of the engine, which takes in one request after the other.

HTTP, the chat template and the tokenizer are one thread's work in vLLM's API server and in SGLang's tokenizer
manager: requests that are sent together reach the engine one by one. A client that keeps many in flight sends
them so at the beginning of its run, and again whenever several are answered in one step.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from kvplan.engine.arrivals import Arrivals, Relayed
from kvplan.traces.request import Request


class ApiServer(Relayed):
    """Requests reach the engine when a front end has worked on them, in the order in which they are sent.

    Their latencies count from when they were sent (``first_sent_s``).

    Args:
        inner: what clients send.
        service_s: seconds of work on a request with so many prompt tokens.
        servers: front ends side by side, which share the work evenly.
    """

    hears = True

    def __init__(self, inner: Arrivals, service_s: Callable[[int], float], servers: int = 1) -> None:
        super().__init__(inner)
        self._service_s, self._servers = service_s, servers
        self._free_s = self._last_s = 0.0
        self._sent_s: dict[str, float] = {}

    @property
    def next_s(self) -> float:
        """See the base class."""
        sent_s = self.inner.next_s
        if sent_s == inf:
            return inf
        begun_s = sent_s if sent_s > self._free_s else self._free_s
        # Of several front ends the one with the longer prompt may be done later: it counts as done first.
        return max(begun_s + self._service_s(self.inner.next_prompt_tokens), self._last_s)

    def take(self) -> Request:
        """See the base class."""
        now, begun_s = self.next_s, max(self.inner.next_s, self._free_s)
        work_s = self._service_s(self.inner.next_prompt_tokens)
        request = self.inner.take()
        self._free_s, self._last_s = begun_s + work_s / self._servers, now
        self._sent_s[request.id] = request.arrival_s
        return request._replace(arrival_s=now)

    def first_sent_s(self, request_id: str) -> float | None:
        """See the base class."""
        return self._sent_s[request_id]

    def answered(self, request_id: str, time_s: float) -> None:
        """See the base class."""
        del self._sent_s[request_id]
        super().answered(request_id, time_s)

    def gave_up(self, request_id: str, time_s: float) -> bool:
        """See the base class."""
        del self._sent_s[request_id]
        return super().gave_up(request_id, time_s)

    def turned_away(self, request_id: str) -> None:
        """See the base class."""
        del self._sent_s[request_id]
        super().turned_away(request_id)
