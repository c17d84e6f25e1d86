"""Windows nobody holds, in the order in which they will go: those used longest ago first.

SGLang keeps a list of all and skips those that are held; here only those that may go are queued. A split puts
the upper part right behind the lower one: both keep their tick, and of one tick the part that ends first goes
first.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from kvplan.engine.sglang_windows.node import WindowNode


class WindowQueue:
    """A heap with lazy deletion: an entry counts only while its node carries the entry's ticket.

    Args:
        first_ticket: where two queues share a tree, their tickets must differ.
    """

    __slots__ = ("_count", "_heap", "_tickets")

    def __init__(self, first_ticket: int = 0) -> None:
        self._heap: list[tuple[int, int, int, WindowNode]] = []
        self._tickets = first_ticket
        self._count = 0

    def put(self, node: WindowNode) -> None:
        """Add a node, or move it to where its tick now belongs."""
        if not node.window_ticket:
            self._count += 1
        self._tickets = node.window_ticket = self._tickets + 1
        heappush(self._heap, (node.window_tick, node.end, node.window_ticket, node))
        if len(self._heap) > 2 * self._count + 64:
            self._heap = [entry for entry in self._heap if entry[2] == entry[3].window_ticket]
            heapify(self._heap)

    def discard(self, node: WindowNode) -> None:
        """Its window is held again, or gone."""
        if node.window_ticket:
            node.window_ticket = 0
            self._count -= 1

    def pop(self) -> WindowNode | None:
        """Take out the node whose window was used longest ago."""
        heap = self._heap
        while heap:
            _, _, ticket, node = heappop(heap)
            if node.window_ticket == ticket:
                self.discard(node)
                return node
        return None
