"""What a strategy provides: which tokens are elsewhere, and when they will have come."""

from __future__ import annotations

from typing import Protocol

from kvplan.engine.live import LiveRequest
from kvplan.errors import KvplanError

UNKNOWN = float("inf")
"""A fetch that ends when somebody else says so (``RemoteReplica.ended``)."""


class KvSource(Protocol):
    """Where KV comes from that the device does not have.

    Both methods are called with the request's counters up to date: ``request.num_tokens`` are known (prompt
    and the outputs so far), ``request.content`` is their content.
    """

    def lookup(self, request: LiveRequest, start: int) -> int:
        """Tokens after the first ``start`` (a multiple of the block size) that could be fetched; 0 for none.

        More than the request knows are cut. Called at every attempt to admit the request, so it should be
        cheap and must change nothing.
        """
        ...

    def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
        """Begin to fetch ``tokens`` tokens after the first ``start``; the device has blocks for them.

        Called once for every load, with what ``lookup`` answered (or less, where that was cut) and in the
        same ``schedule()`` call. Returns the time at which they will have arrived, not before ``now``, or
        ``UNKNOWN``.
        """
        ...


class NeverArrives(KvplanError):
    """The run is over and a request still waits for KV that nobody sends."""

    code = "never-arrives"

    def __init__(self, clock_s: float, request_id: str) -> None:
        super().__init__(
            f"at t = {clock_s:.6f} s nothing is left to do, but request {request_id!r} still waits for KV "
            "from elsewhere"
        )
