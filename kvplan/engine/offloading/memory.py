"""How much of the host's memory is in use, and for what: of whoever keeps chunks in it."""

from __future__ import annotations


class HostMemory:
    """Chunks in host memory.

    A chunk is *idle* (it may go), *read* by so many loads, or *pending*: it is there for others to wait for,
    but not written yet. ``idle + read + pending == resident <= capacity``.

    Args:
        capacity: chunks.

    Attributes:
        idle, pending, read: how many chunks are in each state.
        version: changes whenever something does that a refused store or a look-up could notice.
        stored, evicted: chunks that came and went; peak: most at a time.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.idle = self.pending = self.read = 0
        self.version = self.stored = self.evicted = self.peak = 0

    @property
    def resident(self) -> int:
        """Chunks that are there, or being written."""
        return self.idle + self.pending + self.read
