"""The host's pool: how many tokens it holds, and what passed through it."""

from __future__ import annotations


class HostMemory:
    """Tokens of the host's pool, whole pages. ``0 <= used <= capacity``.

    Attributes:
        capacity: tokens it holds.
        used, peak: tokens in it, and the most there ever were.
        stored, evicted: tokens that were put in, and that went for want of room, copies of what is on the
            device included.
    """

    __slots__ = ("capacity", "evicted", "peak", "stored", "used")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = self.peak = self.stored = self.evicted = 0

    @property
    def free(self) -> int:
        """Tokens nothing is in."""
        return self.capacity - self.used

    def put(self, tokens: int) -> None:
        """Tokens come in; there must be room."""
        self.used += tokens
        assert self.used <= self.capacity, f"{self.used} of {self.capacity} tokens in the host"
        self.stored += tokens
        self.peak = max(self.peak, self.used)

    def drop(self, tokens: int) -> None:
        """Tokens go."""
        self.used -= tokens
        self.evicted += tokens
