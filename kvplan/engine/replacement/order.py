"""Evictable segments, smallest key first, in O(log n) a change.

A heap with lazy deletion: an entry counts only while its segment carries the entry's ticket and may still
be evicted. Entries that do not count are swept out once they are the majority, so memory follows the
number of unreferenced segments.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeAlias

from kvplan.engine.replacement.tracked import TrackedSegment

if TYPE_CHECKING:
    from kvplan.engine.replacement.pool import RankedPool

_Entry: TypeAlias = tuple[float, int, int, int, TrackedSegment]


class EvictionOrder:
    """Segments by (key, release, the later blocks first); a segment is in at most one order at a time."""

    __slots__ = ("_heap", "_pool")

    def __init__(self, pool: RankedPool) -> None:
        self._pool = pool
        self._heap: list[_Entry] = []

    def put(self, key: float, segment: TrackedSegment) -> None:
        """Add a segment, or move it to where ``key`` belongs."""
        pool = self._pool
        pool.tickets = segment.ticket = pool.tickets + 1
        heap = self._heap
        heappush(heap, (key, segment.released, -segment.node.start, segment.ticket, segment))
        if len(heap) > 2 * pool.segments + 64:
            self._heap = [entry for entry in heap if entry[3] == entry[4].ticket]
            heapify(self._heap)

    def first(self) -> TrackedSegment | None:
        """The segment with the smallest key; it stays."""
        heap = self._heap
        while heap:
            entry = heap[0]
            segment = entry[4]
            if segment.ticket == entry[3]:
                if segment.evictable:
                    return segment
                segment.ticket = 0  # offered again when what hangs below is gone
            heappop(heap)
        return None

    def pop(self) -> TrackedSegment | None:
        """Take out the segment with the smallest key."""
        segment = self.first()
        if segment is not None:
            heappop(self._heap)
            segment.ticket = 0
        return segment
