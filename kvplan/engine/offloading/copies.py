"""Copies between device and host: what is on its way, and when it will have come.

One queue in each direction, as vLLM's two streams. A store waits for the step that computes what it reads,
a load for the step it begins with, as whatever is computed may still write.
"""

from __future__ import annotations

from collections import deque

from kvplan.engine.live import LiveRequest
from kvplan.engine.offloading.spans import Span, length
from kvplan.engine.remote.queue import Transfer
from kvplan.engine.tiers.line import Line


class Store(Transfer):
    """Blocks of one request on their way to the host.

    Attributes:
        owner: whose they are; blocks: how many are copied.
    """

    __slots__ = ("blocks", "owner")

    def __init__(self, owner: LiveRequest, blocks: int) -> None:
        super().__init__()
        self.owner = owner
        self.blocks = blocks


class SpanStore(Store):
    """Chunks of a cache of one group.

    Attributes:
        spans: where in its prompt they stand; chunks: how many they are.
    """

    __slots__ = ("chunks", "spans")

    def __init__(self, owner: LiveRequest, spans: list[Span], chunk_blocks: int) -> None:
        self.chunks = length(spans)
        super().__init__(owner, self.chunks * chunk_blocks)
        self.spans = spans


class Way:
    """One direction: copies end in the order in which they began."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.flying: deque[Transfer] = deque()

    def send(self, transfer: Transfer, blocks: int, now: float) -> float:
        """Begin, not before ``now``; returns when it ends."""
        transfer.done_s = self.line.send(now, blocks)
        self.flying.append(transfer)
        return transfer.done_s

    def ended(self, now: float) -> list[Transfer]:
        """What has ended by ``now`` and nobody has found yet."""
        found = []
        while self.flying and self.flying[0].done_s <= now:
            found.append(self.flying.popleft())
        return found
