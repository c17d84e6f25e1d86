"""The host's slots for recurrent states."""

from __future__ import annotations

from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.states.node import HostedStateNode


class HostStates(HostMemory):
    """Slots of the host, counted as ``HostMemory`` does tokens, and the order in which states leave them.

    In the order is whose state is only in the host; a state that a load reads may be, but does not go.
    """

    __slots__ = ("_order",)

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._order: dict[HostedStateNode, None] = {}

    def enter(self, node: HostedStateNode) -> None:
        """A state is only in the host now: it goes last, if it is not in the order."""
        self._order.setdefault(node)

    def leave(self, node: HostedStateNode) -> None:
        """A state does not go any more, or is gone."""
        self._order.pop(node, None)

    @property
    def first(self) -> HostedStateNode | None:
        """Whose state goes next; None: nobody's may."""
        return next((node for node in self._order if node.pinned_from < 0), None)
