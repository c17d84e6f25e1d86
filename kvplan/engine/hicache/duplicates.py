"""Copies in the host of what is on the device again: under ``write_back`` they go before anything else."""

from __future__ import annotations

from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.node import HostedNode


class Duplicates:
    """Nodes in the order in which they were first seen in both memories (``full_host_duplicates``).

    Who leaves the device or the host meanwhile keeps its place until the next time room is made, or for good
    if it is back by then: SGLang looks at its nodes again only as it passes them.
    """

    __slots__ = ("_nodes",)

    def __init__(self) -> None:
        self._nodes: dict[HostedNode, None] = {}

    def note(self, node: HostedNode) -> None:
        """Something has happened to a node."""
        if node.on_device and node.on_host and node.loading is None:
            self._nodes.setdefault(node)
        else:
            self._nodes.pop(node, None)

    def forget(self, node: HostedNode) -> None:
        """A node is gone."""
        self._nodes.pop(node, None)

    def reclaim(self, tokens: int, host: HostMemory) -> int:
        """Give up copies until ``tokens`` tokens are free; returns how many were freed.

        Nodes that may leave the device next are spared if the others suffice: their copies save a write.
        """
        freed = 0
        gone: list[HostedNode] = []
        for spare in (True, False):
            if freed >= tokens:
                break
            for node in self._nodes:
                if freed >= tokens:
                    break
                if not node.on_device or not node.on_host:
                    gone.append(node)
                elif not (spare and node.ticket) and node.loading is None and not node.pinned:
                    node.on_host = False
                    host.drop(node.tokens)
                    freed += node.tokens
                    gone.append(node)
        for node in gone:
            self._nodes.pop(node, None)
        return freed
