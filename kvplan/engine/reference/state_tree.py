"""The oracle of SGLang's radix cache with recurrent states: who has one is kept in a plain list.

``UnifiedRadixCache`` with ``FullComponent`` and ``MambaComponent``, read from its source.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.reference.radix import TokenNode, Tokens, TokenTree
from kvplan.engine.sglang.eviction import EvictionPolicy


class StateTokenNode(TokenNode):
    """A node behind whose last token a state may be kept.

    Attributes:
        has_state: whether it is there. (The root's is the empty one, and takes no slot.)
        state_locks: requests that hold it.
    """

    def __init__(self, tokens: Tokens, parent: TokenNode | None, now: float) -> None:
        super().__init__(tokens, parent, now)
        self.has_state = False
        self.state_locks = 0


class StateTokenTree(TokenTree):
    """A radix cache of tokens and states, token by token.

    Attributes:
        recency: nodes that have states, the most recently used one first.
        states_evicted: states that went for want of slots or of tokens.
        orphaned: tokens that went with a state for want of slots.
    """

    node_class = StateTokenNode

    def __init__(self, page_size: int, policy: EvictionPolicy) -> None:
        super().__init__(page_size, policy, "unified")
        self.recency: list[StateTokenNode] = []
        self.states_evicted = self.orphaned = 0

    def _last_usable(self, passed: list[TokenNode]) -> int:
        """The last node behind which a state is kept."""
        nodes = cast("list[StateTokenNode]", passed)
        return max((place for place, node in enumerate(nodes) if node.has_state), default=0)

    def _used(self, passed: list[TokenNode]) -> None:
        """As the base class; with the state it ends with."""
        self._use_state(cast(StateTokenNode, passed[-1]))
        super()._used(passed)

    def publish(
        self, content: Tokens, length: int, priority: int, counted: int
    ) -> tuple[int, StateTokenNode, bool]:
        """``insert``; see ``StateIndex.publish``."""
        present = self.insert(content, length, priority, counted)
        last = cast(StateTokenNode, self._passed(self._floor(content[:length]))[-1])
        taken = last is not self.root and not last.has_state
        if taken:
            last.has_state = True
            self.recency.append(last)
        self._use_state(last)
        return present, last, taken

    def _use_state(self, node: StateTokenNode) -> None:
        if node.has_state:
            self.recency.remove(node)
            self.recency.insert(0, node)

    def lock(self, node: TokenNode) -> None:
        """As the base class; of the states on the path only the node's own is held."""
        super().lock(node)
        cast(StateTokenNode, node).state_locks += 1

    def unlock(self, node: TokenNode) -> None:
        """As the base class."""
        super().unlock(node)
        cast(StateTokenNode, node).state_locks -= 1
        assert cast(StateTokenNode, node).state_locks >= 0

    def evict(self, tokens: int) -> int:
        """As the base class; the states of leaves go with them."""
        freed = super().evict(tokens)
        reached = {*self.nodes()}
        for node in [node for node in self.recency if node not in reached]:
            self._forget(node)
        return freed

    def evict_states(self, count: int) -> int:
        """``count`` states, used longest ago first, and leaves whole; returns tokens freed."""
        freed = 0
        for _ in range(count):
            node = next((node for node in reversed(self.recency) if not node.state_locks), None)
            if node is None:
                break
            self._forget(node)
            if node.lock_ref == 0 and not node.children:
                assert node.parent is not None
                del node.parent.children[node.tokens[: self.page_size]]
                freed += len(node.tokens)
        self.evictable -= freed
        self.evicted += freed
        self.orphaned += freed
        return freed

    def _forget(self, node: StateTokenNode) -> None:
        node.has_state = False
        self.recency.remove(node)
        self.states_evicted += 1

    def check(self) -> None:
        """As the base class, and that the states in order are those in the tree."""
        super().check()
        nodes = cast("list[StateTokenNode]", self.nodes())
        assert {node for node in nodes if node.has_state} == {*self.recency}
        for node in nodes:
            assert node.state_locks <= node.lock_ref
