"""Evictable leaves in the order in which they will go, in O(log n) a change.

A heap with lazy deletion: an entry counts only while its leaf carries the entry's ticket. Entries that do
not count are swept out when they are the majority, so memory follows the number of leaves.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from kvplan.engine.sglang.eviction import EvictionKey, EvictionPolicy

if TYPE_CHECKING:
    from kvplan.engine.sglang.prefix_radix import RadixNode


class LeafQueue:
    """Leaves nobody holds. A leaf whose key changes must be put again.

    Args:
        policy: the order.
        first_ticket: where two queues share a tree, their tickets must differ.
    """

    __slots__ = ("_count", "_heap", "_key", "_tickets")

    def __init__(self, policy: EvictionPolicy, first_ticket: int = 0) -> None:
        self._key = policy
        self._heap: list[tuple[EvictionKey, int, RadixNode]] = []
        self._tickets = first_ticket
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, leaf: RadixNode) -> None:
        """Add a leaf, or move it to where its key now belongs."""
        if not leaf.ticket:
            self._count += 1
        self._tickets = leaf.ticket = self._tickets + 1
        heappush(self._heap, (self._key(leaf), leaf.ticket, leaf))
        if len(self._heap) > 2 * self._count + 64:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].ticket]
            heapify(self._heap)

    def discard(self, leaf: RadixNode) -> None:
        """A leaf is held again, or no longer a leaf."""
        if leaf.ticket:
            leaf.ticket = 0
            self._count -= 1

    def pop(self) -> RadixNode | None:
        """Take out the leaf with the smallest key."""
        heap = self._heap
        while heap:
            _, ticket, leaf = heappop(heap)
            if leaf.ticket == ticket:
                leaf.ticket = 0
                self._count -= 1
                return leaf
        return None
