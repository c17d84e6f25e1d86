"""The host's pool for windows."""

from __future__ import annotations

from typing import cast

from kvplan.engine.hicache.beside import BesideNode, HostBeside
from kvplan.engine.hicache.windows.node import HostedWindowNode
from kvplan.engine.sglang_windows.recency import WindowQueue

_HOST_TICKETS = 1 << 48
"""Beyond those of the device's order: a node is in one or the other."""


class HostWindows(HostBeside):
    """Tokens of the host's other pool, and the order in which windows leave it: as they came."""

    __slots__ = ("_entered", "order")

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.order = WindowQueue(_HOST_TICKETS)
        self._entered = 0

    def enter(self, node: BesideNode) -> None:
        """See the base class: it goes last."""
        assert isinstance(node, HostedWindowNode)
        self._entered = node.window_tick = self._entered + 1
        self.order.put(node)

    def leave(self, node: BesideNode) -> None:
        """See the base class."""
        self.order.discard(cast(HostedWindowNode, node))

    def next_out(self) -> BesideNode | None:
        """See the base class; it is out of the order."""
        return cast("BesideNode | None", self.order.pop())
