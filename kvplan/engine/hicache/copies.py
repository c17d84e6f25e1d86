"""Copies between device and host, and when they have arrived (``HiCacheController``)."""

from __future__ import annotations

from collections import deque

from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.tiers.line import Line

Transfer = tuple[float, list[HostedNode]]
"""When it has arrived, and the nodes that are held until then."""


class GatheredLine(Line):
    """A way whose transfers are one operation each: SGLang's copy kernels take lists of tokens."""

    __slots__ = ()

    def seconds(self, blocks: int) -> float:
        """Of a transfer that need not wait."""
        return self.carrier.seconds(blocks * self.device_bytes, 1) if blocks else 0.0


class Copies:
    """What is on its way, in both directions.

    Args:
        put, get: the ways to the host and back; their blocks are pages.
        page_size: tokens per page.

    Attributes:
        now: the scheduler's clock; a write that it waits for moves it on.
        fence: when everything launched so far is through on the device; no copy begins before.
        writes, loads: what is on its way, in the order in which it was sent for.
        loaded_s: when the loads of the batch that is made have arrived; 0 without any.
        waited_s: how long the scheduler waited for writes, all together.
        lengthened_s: how much longer steps took because of their loads, all together.
    """

    __slots__ = (
        "_queued", "_queued_tokens", "_reading", "_reading_tokens", "fence", "get", "lengthened_s",
        "loaded_s", "loads", "now", "page_size", "put", "waited_s", "writes",
    )  # fmt: skip

    def __init__(self, put: Line, get: Line, page_size: int) -> None:
        self.put = put
        self.get = get
        self.page_size = page_size
        self.now = self.fence = self.loaded_s = 0.0
        self.waited_s = self.lengthened_s = 0.0
        self.writes: deque[Transfer] = deque()
        self.loads: deque[Transfer] = deque()
        self._queued: list[HostedNode] = []
        self._queued_tokens = 0
        self._reading: list[HostedNode] = []
        self._reading_tokens = 0

    def write(self, node: HostedNode) -> None:
        """A node goes to the host with the next transfer."""
        self._queued.append(node)
        self._queued_tokens += node.tokens

    def flush(self) -> None:
        """Send what is queued for the host (``start_writing``)."""
        if self._queued:
            self.writes.append((self._send(self.put, self._queued_tokens), self._queued))
            self._queued = []
            self._queued_tokens = 0

    def write_and_wait(self, node: HostedNode) -> None:
        """A node goes to the host at once, and the scheduler waits for it."""
        done_s = self._send(self.put, node.tokens)
        self.waited_s += done_s - self.now
        self.now = done_s

    def read(self, last: HostedNode, tokens: int) -> None:
        """Tokens come back with the batch that is made; ``last`` is the last node of them."""
        self._reading.append(last)
        self._reading_tokens += tokens

    def start_loads(self) -> None:
        """Send for what the batch needs (``start_loading``)."""
        if self._reading:
            self.loaded_s = self._send(self.get, self._reading_tokens)
            self.loads.append((self.loaded_s, self._reading))
            self._reading = []
            self._reading_tokens = 0

    def _send(self, line: Line, tokens: int) -> float:
        return line.send(max(self.now, self.fence), tokens // self.page_size)

    @property
    def next_s(self) -> float:
        """When the next transfer will have arrived that has not by now; infinite without one."""
        due = (done_s for done_s, _ in (*self.writes, *self.loads) if done_s > self.now)
        return min(due, default=float("inf"))

    @property
    def last_s(self) -> float:
        """When all transfers will have arrived; 0 without any."""
        return max((done_s for done_s, _ in (*self.writes, *self.loads)), default=0.0)
