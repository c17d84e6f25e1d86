"""The host's slots for recurrent states."""

from __future__ import annotations

from kvplan.engine.hicache.beside import BesideNode, HostBeside


class HostStates(HostBeside):
    """Slots of the host, and the order in which states leave them; one that a load reads does not go."""

    __slots__ = ("_order",)

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._order: dict[BesideNode, None] = {}

    def enter(self, node: BesideNode) -> None:
        """See the base class: it goes last, if it is not in the order."""
        self._order.setdefault(node)

    def leave(self, node: BesideNode) -> None:
        """See the base class."""
        self._order.pop(node, None)

    def next_out(self) -> BesideNode | None:
        """See the base class."""
        return next((node for node in self._order if node.pinned_from < 0), None)
