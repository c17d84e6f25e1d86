"""The nodes of SGLang's radix cache over two memories: where they are, who holds them, and which may go."""

from __future__ import annotations

from typing import ClassVar, cast

from kvplan.engine.hicache.duplicates import Duplicates
from kvplan.engine.hicache.node import HostedNode, HostedTokens
from kvplan.engine.sglang.eviction import EvictionPolicy
from kvplan.engine.sglang.prefix_radix import AGE_STEP, RadixIndex, RadixNode
from kvplan.engine.sglang.radix_leaves import LeafQueue

_HOST_TICKETS = 1 << 48
"""Beyond those of the device's leaves: a node is in one queue or the other."""


class HostedTree(RadixIndex):
    """A radix tree whose nodes are on the device, in the host, or in both.

    Args:
        page_size, policy: as of ``RadixIndex``; the policy orders what leaves the host, too.

    Attributes:
        host_leaves: nodes that may leave the host.
        duplicates: under ``write_back``, nodes that are in both memories.
    """

    node_class: ClassVar[type[RadixNode]] = HostedTokens
    root: HostedNode

    def __init__(self, page_size: int, policy: EvictionPolicy) -> None:
        super().__init__(page_size, policy)
        self.host_leaves = LeafQueue(policy, _HOST_TICKETS)
        self.duplicates: Duplicates | None = None

    def _found(self, node: RadixNode) -> None:
        """As the base class; those before it may go, too."""
        now = self._tick()
        seen = cast("HostedNode | None", node)
        while seen is not None:
            seen.last_access = now
            now -= AGE_STEP
            if seen.ticket:
                self._place(seen)
            seen = seen.parent

    def last_on_device(self, node: RadixNode) -> HostedNode:
        """See ``RadixIndex.last_on_device``."""
        assert isinstance(node, HostedNode)
        while not node.on_device:
            assert node.parent is not None
            node = node.parent
        return node

    # -- holding ----------------------------------------------------------------------------------------

    def lock(self, node: HostedNode) -> None:  # type: ignore[override]
        """See ``RadixTree.lock``; nodes that are only in the host may be held, too."""
        parent = node.parent
        while parent is not None:
            if node.lock_ref == 0:
                if node.ticket:
                    (self.leaves if node.on_device else self.host_leaves).discard(node)
                if node.on_device:
                    self.evictable -= node.tokens
                    self.protected += node.tokens
            node.lock_ref += 1
            node = parent
            parent = node.parent

    def unlock(self, node: HostedNode) -> None:  # type: ignore[override]
        """See ``RadixTree.unlock``."""
        parent = node.parent
        while parent is not None:
            node.lock_ref -= 1
            if node.lock_ref == 0:
                if node.on_device:
                    self.evictable += node.tokens
                    self.protected -= node.tokens
                self._place(node)
            node = parent
            parent = node.parent

    # -- where nodes are --------------------------------------------------------------------------------

    def _arrive(self, node: HostedNode) -> None:
        """A node of the host is on the device, too."""
        parent = node.parent
        assert parent is not None
        if node.ticket:
            self.host_leaves.discard(node)
        node.on_device = True
        parent.resident += 1
        if node.lock_ref:
            self.protected += node.tokens
        else:
            self.evictable += node.tokens
        self._place(node)
        self._place(parent)

    def _leave(self, node: HostedNode) -> None:
        """A node nobody holds leaves the device."""
        parent = node.parent
        assert parent is not None
        if node.ticket:
            self.leaves.discard(node)
        node.on_device = False
        parent.resident -= 1
        self.evictable -= node.tokens
        self._place(node)
        self._place(parent)

    def _place(self, node: HostedNode) -> None:
        """Put a node where its age belongs among those that may be evicted, or take it out."""
        if node.parent is None:
            return
        if node.on_device:
            queue, below = self.leaves, node.resident
        else:
            queue, below = self.host_leaves, len(node.children)
        if node.lock_ref == 0 and not below:
            queue.put(node)
        elif node.ticket:
            queue.discard(node)

    def _split(self, child: HostedNode, position: int) -> HostedNode:  # type: ignore[override]
        """Cut a node; returns the new upper part, ``child`` stays the lower one."""
        parent = child.parent
        assert parent is not None
        upper = cast(
            HostedNode,
            self.node_class(child.content, child.start, position, parent, child.key, self._tick()),
        )
        upper.lock_ref = child.lock_ref
        upper.hit_count = child.hit_count
        upper.priority = child.priority
        upper.history = child.history
        upper.creation = child.creation
        upper.on_device, upper.on_host, upper.loading = child.on_device, child.on_host, child.loading
        upper.pinned = child.pinned
        upper.resident = int(child.on_device)
        parent.children[child.key] = upper
        child.parent = upper
        child.start = position
        child.key = child.content.block_key(position, self.page_size)
        upper.children[child.key] = child
        child.last_access = self._tick()
        if child.ticket:
            self._place(child)
        if self.duplicates is not None:
            self.duplicates.note(upper)
        return upper
