"""SGLang's radix cache over tokens and recurrent states, each on the device and in the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from kvplan.engine.content import Content
from kvplan.engine.hicache.beside import BesideIndex, BesideNode
from kvplan.engine.hicache.copies import Copies, Parcel
from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.index import HierarchicalIndex, WritePolicy
from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.hicache.states.memory import HostStates
from kvplan.engine.hicache.states.node import HostedStateNode
from kvplan.engine.sglang.eviction import EvictionPolicy
from kvplan.engine.sglang.found import Found
from kvplan.engine.sglang.prefix_radix import RadixNode
from kvplan.engine.sglang_states.index import StateIndex
from kvplan.engine.sglang_states.node import StateNode


class HostedStateIndex(BesideIndex, StateIndex):
    """A radix cache with states that goes on in the host.

    Args:
        page_size, policy, write, host, copies: as of ``HierarchicalIndex``.
        host_states: the host's slots for states, empty.
    """

    node_class = HostedStateNode
    root: HostedStateNode

    def __init__(
        self,
        page_size: int,
        policy: EvictionPolicy,
        write: WritePolicy,
        host: HostMemory,
        copies: Copies,
        host_states: HostStates,
    ) -> None:
        super().__init__(page_size, policy, write, host, copies)
        self.host_beside = host_states

    # -- looking ----------------------------------------------------------------------------------------

    def match(self, content: Content, limit: int) -> tuple[int, HostedStateNode]:
        """See ``HierarchicalIndex.match``; of prefixes with a state at their end."""
        return cast("tuple[int, HostedStateNode]", HierarchicalIndex.match(self, content, limit))

    def look(self, content: Content, limit: int) -> Found[HostedStateNode]:
        """See ``StateIndex.look``; the longest prefix that is kept anywhere becomes recently used."""
        last = anchor = self.root
        if limit < self.page_size:
            return Found(0, anchor, 0, last)
        depth = 0
        for node in cast("Iterator[HostedStateNode]", self._passed(content, limit)):
            depth = node.end
            if node.state:
                last = anchor = node
            elif node.beside_on_host:
                last = node
        self._use(last)
        self._found(last)
        return Found(anchor.end, anchor, depth, last, self._below(last, anchor))

    def last_on_device(self, node: RadixNode) -> HostedStateNode:
        """As the base class: the last one with a state there."""
        assert isinstance(node, HostedStateNode)
        while not node.state:
            assert node.parent is not None
            node = node.parent
        return node

    def cached(self, content: Content, limit: int) -> int:
        """As the base class; of prefixes with a state at their end, on the device or in the host."""
        nodes = cast("Iterator[tuple[HostedStateNode, int]]", self._agreeing(content, limit))
        ends = (depth for node, depth in nodes if (node.state or node.beside_on_host) and depth == node.end)
        return max(ends, default=0)

    # -- inserting --------------------------------------------------------------------------------------

    def publish(
        self, content: Content, length: int, priority: int, counted: int
    ) -> tuple[int, StateNode, bool]:
        """See ``StateIndex.publish``; of tokens, those that were on the device."""
        resident, end, new = self._walk(content, length, priority, counted)
        last = cast(HostedStateNode, end)
        taken = not last.state
        self._use(last)
        if taken:
            self._put_state(last)
        if new:
            self._visit(last, length - length % self.page_size > counted)
        elif self.duplicates is None and last.on_host and last.writing is None and not last.beside_on_host:
            self._back_up(last)
        return resident, last, taken

    def _put_state(self, node: HostedStateNode) -> None:
        """A state is on the device."""
        node.state = True
        self.states += 1
        self.host_beside.leave(node)
        if not node.state_lock:
            self.unheld_states.put(node)

    # -- holding ----------------------------------------------------------------------------------------

    def lock(self, node: StateNode) -> None:  # type: ignore[override]
        """See ``StateIndex.lock``."""
        HierarchicalIndex.lock(self, cast(HostedStateNode, node))
        node.state_lock += 1
        self.unheld_states.discard(node)

    def unlock(self, node: StateNode) -> None:  # type: ignore[override]
        """Undo one ``lock``."""
        HierarchicalIndex.unlock(self, cast(HostedStateNode, node))
        node.state_lock -= 1
        if not node.state_lock and node.state and node.parent is not None:
            self.unheld_states.put(node)

    # -- the host ---------------------------------------------------------------------------------------

    def _units(self, node: BesideNode) -> int:
        """See the base class: a slot."""
        return 1

    def _unsaved(self, node: BesideNode) -> list[BesideNode]:
        """See the base class: the state behind its tokens."""
        return [node] if node.beside_on_device and not node.beside_on_host else []

    def _needed(self, last: BesideNode) -> list[BesideNode]:
        """See the base class: the state behind it."""
        return [last]

    def _parcel(self, tokens: int, units: int) -> Parcel:
        """See the base class."""
        return Parcel(tokens, units)

    def _loaded_with(self, last: HostedNode, tokens: int) -> Parcel:
        """As the base class; the state goes into a slot of the tree's and into one of the request's."""
        assert isinstance(last, HostedStateNode)
        self._use(last)
        self._put_state(last)
        return Parcel(tokens, 2)

    # -- evicting from the device -----------------------------------------------------------------------

    def evict(self, tokens: int) -> int:
        """See ``HierarchicalIndex.evict``; the states of leaves go with them."""
        return HierarchicalIndex.evict(self, tokens)

    def evict_states(self, count: int) -> int:
        """See ``StateIndex.evict_states``."""
        freed = 0
        for _ in range(count):
            node = cast("HostedStateNode | None", self.unheld_states.pop())
            if node is None:
                break
            if node.ticket:
                self.leaves.discard(node)
                freed += node.tokens
                self._evict_leaf(node)
                continue
            self._save_first(node)
            self._drop_state(node)
        self.orphaned += freed
        return freed

    def _leave(self, node: HostedNode) -> None:
        """As the base class, with the state."""
        assert isinstance(node, HostedStateNode)
        super()._leave(node)
        if node.state:
            self._drop_state(node)

    def _drop_state(self, node: StateNode) -> None:
        """As the base class; it may be in the host still."""
        assert isinstance(node, HostedStateNode)
        super()._drop_state(node)
        if node.beside_on_host:
            self.host_beside.enter(node)
