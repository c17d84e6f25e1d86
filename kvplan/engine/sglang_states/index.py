"""SGLang's radix cache with recurrent states: ``UnifiedRadixCache`` of the components ``FULL`` and ``MAMBA``.

A prefix can be used only where a state is kept at its end, so a match ends with the deepest such node,
however far the tokens agree. Tokens are held and evicted as in ``RadixIndex``; states have an order of their
own, least recently used first, in which only the state a match ends with counts as used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from kvplan.engine.content import Content
from kvplan.engine.sglang.eviction import EvictionPolicy
from kvplan.engine.sglang.found import Found
from kvplan.engine.sglang.prefix_radix import RadixIndex
from kvplan.engine.sglang_states.node import StateNode
from kvplan.engine.sglang_states.queue import StateQueue


class StateIndex(RadixIndex):
    """A radix prefix cache whose nodes may have a state.

    Attributes:
        states: slots of the state pool that the tree has.
        evicted_states: states that went for want of slots or of tokens.
        orphaned: tokens that went with a state for want of slots, as nothing hung below them.
    """

    node_class = StateNode
    root: StateNode

    def __init__(self, page_size: int, policy: EvictionPolicy) -> None:
        super().__init__(page_size, policy)
        self.unheld_states = StateQueue()
        self.states = 0
        self.evicted_states = 0
        self.orphaned = 0

    # -- looking ----------------------------------------------------------------------------------------

    def look(self, content: Content, limit: int) -> Found[StateNode]:
        """Longest prefix of at most ``limit`` tokens with a state at its end.

        Not a pure look-up: it and its state become recently used, and a node is split where the tokens cease
        to agree.
        """
        best = self.root
        if limit < self.page_size:
            return Found(0, best, 0, best)
        depth = 0
        for node in cast("Iterator[StateNode]", self._passed(content, limit)):
            depth = node.end
            if node.state:
                best = node
        self._use(best)
        self._found(best)
        return Found(best.end, best, depth, best)

    def match(self, content: Content, limit: int) -> tuple[int, StateNode]:
        """See ``RadixTree.match``; of prefixes with a state at their end."""
        found = self.look(content, limit)
        return found.hit, found.node

    def cached(self, content: Content, limit: int) -> int:
        """As the base class; of prefixes with a state at their end."""
        nodes = cast("Iterator[tuple[StateNode, int]]", self._agreeing(content, limit))
        return max((depth for node, depth in nodes if node.state and depth == node.end), default=0)

    # -- inserting --------------------------------------------------------------------------------------

    def publish(
        self, content: Content, length: int, priority: int, counted: int
    ) -> tuple[int, StateNode, bool]:
        """Insert the first ``length`` tokens and the state behind them.

        Returns:
            Tokens that were there already, the node with which the inserted ones end, and whether the tree
            has taken the state: not if it has one there.
        """
        present, last = self._descend(self.root, content, length, priority, counted)
        assert isinstance(last, StateNode)
        taken = not last.state
        self._use(last)
        if taken:
            last.state = True
            self.states += 1
            self.unheld_states.put(last)
        return present, last, taken

    def _use(self, node: StateNode) -> None:
        node.used = self._tick()
        if node.state_ticket:
            self.unheld_states.put(node)

    # -- holding ----------------------------------------------------------------------------------------

    def lock(self, node: StateNode) -> None:  # type: ignore[override]
        """As the base class; of the states on the path only the node's own is held."""
        super().lock(node)
        node.state_lock += 1
        self.unheld_states.discard(node)

    def unlock(self, node: StateNode) -> None:  # type: ignore[override]
        """Undo one ``lock``."""
        super().unlock(node)
        node.state_lock -= 1
        if node.state_lock == 0 and node.parent is not None:
            self.unheld_states.put(node)

    # -- evicting ---------------------------------------------------------------------------------------

    def evict(self, tokens: int) -> int:
        """As the base class; the states of leaves go with them."""
        freed = 0
        while freed < tokens:
            leaf = self.leaves.pop()
            if leaf is None:
                break
            assert isinstance(leaf, StateNode)
            freed += self._remove(leaf)
            if leaf.state:
                self._drop_state(leaf)
        return freed

    def evict_states(self, count: int) -> int:
        """Evict ``count`` states, or as many as nobody holds; returns tokens freed.

        A leaf goes whole, as nobody could use its tokens; elsewhere the tokens stay.
        """
        freed = 0
        for _ in range(count):
            node = self.unheld_states.pop()
            if node is None:
                break
            self._drop_state(node)
            if node.ticket:
                self.leaves.discard(node)
                freed += self._remove(node)
        self.orphaned += freed
        return freed

    def _drop_state(self, node: StateNode) -> None:
        """A state that nobody holds is gone."""
        self.unheld_states.discard(node)
        node.state = False
        self.states -= 1
        self.evicted_states += 1

    def _remove(self, leaf: StateNode) -> int:
        """Take an unheld leaf out of the tree; returns its tokens."""
        tokens = leaf.end - leaf.start
        self.evictable -= tokens
        self.evicted += tokens
        self._cut_off(leaf)
        return tokens
