"""The host's pool for windows."""

from __future__ import annotations

from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.sglang_windows.node import WindowNode
from kvplan.engine.sglang_windows.recency import WindowQueue

_HOST_TICKETS = 1 << 48
"""Beyond those of the device's order: a node is in one or the other."""


class HostWindows(HostMemory):
    """Tokens of the host's other pool, counted as ``HostMemory`` does, and the order in which windows go.

    In the order is whose windows are only in the host, unless a load is about to read them.
    """

    __slots__ = ("_entered", "order")

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.order = WindowQueue(_HOST_TICKETS)
        self._entered = 0

    def enter(self, node: WindowNode) -> None:
        """Windows are only in the host now: they go last."""
        self._entered = node.window_tick = self._entered + 1
        self.order.put(node)

    def leave(self, node: WindowNode) -> None:
        """Windows do not go any more, or are gone."""
        self.order.discard(node)
