"""States nobody holds, in the order in which they will go: least recently used first (``UnifiedLRUList``).

A heap with lazy deletion like ``LeafQueue``. Being held does not change a state's age, so it comes back to
where it was.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from kvplan.engine.sglang_states.node import StateNode


class StateQueue:
    """Nodes whose states may be evicted. One whose age changes must be put again."""

    __slots__ = ("_count", "_heap", "_tickets")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, StateNode]] = []
        self._tickets = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, node: StateNode) -> None:
        """Add a node, or move it to where its age now belongs."""
        if not node.state_ticket:
            self._count += 1
        self._tickets = node.state_ticket = self._tickets + 1
        heappush(self._heap, (node.used, node.state_ticket, node))
        if len(self._heap) > 2 * self._count + 64:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].state_ticket]
            heapify(self._heap)

    def discard(self, node: StateNode) -> None:
        """Its state is held, or gone."""
        if node.state_ticket:
            node.state_ticket = 0
            self._count -= 1

    def pop(self) -> StateNode | None:
        """Take out the node whose state was not used for longest."""
        heap = self._heap
        while heap:
            _, ticket, node = heappop(heap)
            if node.state_ticket == ticket:
                node.state_ticket = 0
                self._count -= 1
                return node
        return None
