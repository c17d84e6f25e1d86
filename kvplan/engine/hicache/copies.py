"""Copies between device and host, and when they have arrived (``HiCacheController``)."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.tiers.line import Carrier, Line

Transfer = tuple[float, list[HostedNode]]
"""When it has arrived, and the nodes that are held until then."""


class Parcel(NamedTuple):
    """What travels of a node.

    Attributes:
        tokens: whole pages.
        beside: units of the pool beside that of tokens: recurrent states, or pages of windows.
    """

    tokens: int
    beside: int = 0

    def with_(self, other: Parcel) -> Parcel:
        """Both together."""
        return Parcel(self.tokens + other.tokens, self.beside + other.beside)


NOTHING = Parcel(0)


class GatheredLine(Line):
    """A way whose transfers are one operation each: SGLang's copy kernels take lists of tokens.

    Args:
        name, carrier: as of ``Line``.
        page_bytes: bytes of a page; its blocks are pages.
        beside_bytes: bytes of a unit of what lies beside tokens.

    Attributes:
        moved_beside: units of that which it carried.
    """

    __slots__ = ("beside_bytes", "moved_beside")

    def __init__(self, name: str, carrier: Carrier, page_bytes: int, beside_bytes: int = 0) -> None:
        super().__init__(name, carrier, page_bytes, page_bytes)
        self.beside_bytes = beside_bytes
        self.moved_beside = 0

    def gather(self, now: float, pages: int, beside: int) -> float:
        """Ask for a transfer; returns when it has arrived."""
        if not pages and not beside:
            return now
        self.moved_blocks += pages
        self.moved_beside += beside
        size = pages * self.device_bytes + beside * self.beside_bytes
        return self.carry(now, self.carrier.seconds(size, 1))

    @property
    def moved_bytes(self) -> int:
        """Bytes that travelled."""
        return super().moved_bytes + self.moved_beside * self.beside_bytes


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
        "_queued", "_queued_parcel", "_reading", "_reading_parcel", "fence", "get", "lengthened_s",
        "loaded_s", "loads", "now", "page_size", "put", "waited_s", "writes",
    )  # fmt: skip

    def __init__(self, put: GatheredLine, get: GatheredLine, page_size: int) -> None:
        self.put = put
        self.get = get
        self.page_size = page_size
        self.now = self.fence = self.loaded_s = 0.0
        self.waited_s = self.lengthened_s = 0.0
        self.writes: deque[Transfer] = deque()
        self.loads: deque[Transfer] = deque()
        self._queued: list[HostedNode] = []
        self._queued_parcel = NOTHING
        self._reading: list[HostedNode] = []
        self._reading_parcel = NOTHING

    def write(self, node: HostedNode, parcel: Parcel) -> None:
        """What the host lacks of a node goes there with the next transfer."""
        self._queued.append(node)
        self._queued_parcel = self._queued_parcel.with_(parcel)

    def flush(self) -> None:
        """Send what is queued for the host (``start_writing``)."""
        if self._queued:
            self.writes.append((self._send(self.put, self._queued_parcel), self._queued))
            self._queued = []
            self._queued_parcel = NOTHING

    def write_and_wait(self, parcel: Parcel) -> None:
        """A node goes to the host at once, and the scheduler waits for it."""
        done_s = self._send(self.put, parcel)
        self.waited_s += done_s - self.now
        self.now = done_s

    def read(self, last: HostedNode, parcel: Parcel) -> None:
        """Tokens come back with the batch that is made; ``last`` is the last node of them."""
        self._reading.append(last)
        self._reading_parcel = self._reading_parcel.with_(parcel)

    def start_loads(self) -> None:
        """Send for what the batch needs (``start_loading``)."""
        if self._reading:
            self.loaded_s = self._send(self.get, self._reading_parcel)
            self.loads.append((self.loaded_s, self._reading))
            self._reading = []
            self._reading_parcel = NOTHING

    def _send(self, line: GatheredLine, parcel: Parcel) -> float:
        return line.gather(max(self.now, self.fence), parcel.tokens // self.page_size, parcel.beside)

    @property
    def next_s(self) -> float:
        """When the next transfer will have arrived that has not by now; infinite without one."""
        due = (done_s for done_s, _ in (*self.writes, *self.loads) if done_s > self.now)
        return min(due, default=float("inf"))

    @property
    def last_s(self) -> float:
        """When all transfers will have arrived; 0 without any."""
        return max((done_s for done_s, _ in (*self.writes, *self.loads)), default=0.0)
