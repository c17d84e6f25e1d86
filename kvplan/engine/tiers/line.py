"""One direction of a link: transfers go one after the other, in the order in which they are asked for."""

from __future__ import annotations

from typing import Protocol

PENDING = float("inf")


class Carrier(Protocol):
    """How long a link takes when nothing else is on it."""

    def seconds(self, size: int, operations: int = 1) -> float:
        """Seconds of ``size`` bytes (as the device stores them) in so many copies; 0 for none."""
        ...


class Batch:
    """Blocks that are written together.

    Attributes:
        blocks: how many.
        done_s: when they have arrived; ``PENDING`` until they start.
        follows: what must have arrived before these can start, as it brings some of them.
    """

    __slots__ = ("blocks", "done_s", "follows")

    def __init__(self, done_s: float = PENDING) -> None:
        self.blocks = 0
        self.done_s = done_s
        self.follows: Batch | None = None

    def wait_for(self, other: Batch) -> None:
        """Some of the blocks come with ``other``, which may not have arrived, or not even begun."""
        if self.follows is None or other.done_s >= self.follows.done_s:
            self.follows = other


class Line:
    """One direction of a link, with its queue.

    Args:
        name: as metrics call it.
        carrier: the time of one transfer alone.
        device_bytes: bytes of a block on the device, what ``carrier`` is asked about.
        wire_bytes: bytes of a block that travel.

    Attributes:
        free_s: when everything asked for so far is through.
        busy_s, waited_s: seconds it carried; seconds transfers stood in its queue.
        moved_blocks, transfers: what it carried.
    """

    __slots__ = (
        "busy_s", "carrier", "device_bytes", "free_s", "moved_blocks", "name", "transfers", "waited_s",
        "wire_bytes",
    )  # fmt: skip

    def __init__(self, name: str, carrier: Carrier, device_bytes: int, wire_bytes: int) -> None:
        self.name = name
        self.carrier = carrier
        self.device_bytes = device_bytes
        self.wire_bytes = wire_bytes
        self.free_s = self.busy_s = self.waited_s = 0.0
        self.moved_blocks = self.transfers = 0

    def seconds(self, blocks: int) -> float:
        """Of a transfer that need not wait: one copy a block, its layers side by side in memory."""
        return self.carrier.seconds(blocks * self.device_bytes, blocks) if blocks else 0.0

    def wait(self, now: float) -> float:
        """Seconds until a transfer asked for now would begin."""
        return max(0.0, self.free_s - now)

    def send(self, now: float, blocks: int) -> float:
        """Ask for a transfer; returns when it has arrived. Nothing takes no time and waits for nothing."""
        if not blocks:
            return now
        self.moved_blocks += blocks
        return self.carry(now, self.seconds(blocks))

    def carry(self, now: float, seconds: float) -> float:
        """A transfer of so many seconds stands in the queue; returns when it has arrived."""
        begin = max(now, self.free_s)
        self.waited_s += begin - now
        self.busy_s += seconds
        self.free_s = begin + seconds
        self.transfers += 1
        return self.free_s

    @property
    def moved_bytes(self) -> int:
        """Bytes that travelled."""
        return self.moved_blocks * self.wire_bytes
