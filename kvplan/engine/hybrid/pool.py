"""One free queue for all groups: blocks without content, then published ones in the order of release."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.engine.blocks import BlockPool, Segment
from kvplan.engine.hybrid.strips import Batch

_FAR = 64
"""Entries of the queue that are looked through at once."""


class SharedPool(BlockPool):
    """Free blocks of one engine, whatever group they are taken for."""

    __slots__ = ("_evict",)

    def __init__(self, usable: int) -> None:
        super().__init__(usable)
        self._evict: Callable[[Segment, int], int] | None = None

    def segments_evicted_by(self, evict: Callable[[Segment, int], int]) -> None:
        """From the start: who drops blocks of a segment, at most so many, and says how many it dropped."""
        self._evict = evict

    @property
    def free(self) -> int:
        """Blocks nobody references, cached ones included."""
        return self.blank + self.cached

    def before(self, entries: set[object]) -> int:
        """Blocks in the queue before any of these entries; not all of them where they are many."""
        entry, blocks = self.head, 0
        for _ in range(_FAR):
            if entry is None or entry in entries:
                break
            blocks += entry.blocks if isinstance(entry, Batch) else entry.node.end - entry.node.start
            entry = entry.after
        return blocks

    def take(self, count: int) -> None:
        """Take blocks from the head of the queue; published ones are evicted.

        The caller has checked ``count <= free``.
        """
        self.allocated += count
        short = count - self.blank
        if short <= 0:
            self.blank = -short
            return
        self.blank = 0
        self.evict(short)

    def evict(self, short: int) -> None:
        """Evict so many published blocks from the head of the queue."""
        self.evicted += short
        while short:
            entry = self.head
            assert entry is not None
            if isinstance(entry, Batch):
                short -= entry.index.evict(entry, short)
            else:
                assert self._evict is not None
                short -= self._evict(entry, short)
