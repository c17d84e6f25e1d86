"""The oracle of SGLang's radix cache above a pool for windows: who has one is kept in a plain list.

``UnifiedRadixCache`` with ``FullComponent`` and ``SWAComponent``, read from its source. Where a lock ends is
marked by a stamp on its last node, as there; a split hands the stamp to the upper part.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.reference.radix import TokenNode, Tokens, TokenTree, tokens_of
from kvplan.engine.sglang.eviction import EvictionPolicy


class WindowTokenNode(TokenNode):
    """A node whose tokens may have lost their windows.

    Attributes:
        has_window: whether its tokens have places in the window pool.
        window_locks: how many requests hold it there, or would if it had any.
        stamp: marks the oldest node of a lock; 0: of none.
    """

    def __init__(self, tokens: Tokens, parent: TokenNode | None, now: float) -> None:
        super().__init__(tokens, parent, now)
        self.has_window = False
        self.window_locks = self.stamp = 0


class WindowTokenTree(TokenTree):
    """A radix cache over two pools, token by token.

    Args:
        page_size, policy: as of ``TokenTree``.
        span: tokens that layers with windows look back.

    Attributes:
        recency: nodes that have windows, the most recently used one first.
        windows_evicted: tokens that lost their windows for want of room.
    """

    node_class = WindowTokenNode

    def __init__(self, page_size: int, policy: EvictionPolicy, span: int) -> None:
        super().__init__(page_size, policy, "unified")
        self.span = span
        self.kept = -(-span // page_size) * page_size
        self.recency: list[WindowTokenNode] = []
        self.evictable_windows = 0
        self.windows_evicted = 0
        self._stamps = 0

    # -- looking ----------------------------------------------------------------------------------------

    def _last_usable(self, passed: list[TokenNode]) -> int:
        """The last node behind a whole window."""
        most, in_row = 0, float("inf")
        for place, node in enumerate(cast("list[WindowTokenNode]", passed[1:]), 1):
            in_row = in_row + len(node.tokens) if node.has_window else 0
            if in_row >= self.span:
                most = place
        return most

    def _used(self, passed: list[TokenNode]) -> None:
        """As the base class; with their windows."""
        self._use_windows(passed[-1])
        super()._used(passed)

    def _use_windows(self, node: TokenNode) -> None:
        """``reset_node_and_window_ancestors_mru``: one page more than a window, whole nodes."""
        front: list[WindowTokenNode] = []
        passed = 0
        while node.parent is not None and passed < self.span + self.page_size:
            if cast(WindowTokenNode, node).has_window:
                front.append(cast(WindowTokenNode, node))
            passed += len(node.tokens)
            node = node.parent
        self.recency = front + [other for other in self.recency if other not in front]

    # -- inserting --------------------------------------------------------------------------------------

    def add(
        self, content: Tokens, length: int, priority: int, *, counted: int, owned: int, live: int
    ) -> tuple[WindowTokenNode, int, int]:
        """``insert``; arguments as of ``WindowIndex.add``.

        Returns the node with which the tokens end, and what the request no longer needs in either pool.
        """
        wanted = self._floor(content[:length])
        node = cast(WindowTokenNode, self.root)
        depth = freed = freed_windows = 0
        while wanted:
            child = cast("WindowTokenNode | None", node.children.get(wanted[: self.page_size]))
            if child is None:
                break
            child.last_access = self._tick()
            agreed = self._agreement(child.tokens, wanted)
            node = child if agreed == len(child.tokens) else self._split(child, agreed)
            node.priority = max(node.priority, priority)
            start, depth = depth, depth + agreed
            wanted = wanted[agreed:]
            if depth > owned:
                # Known by now, but computed by the request as well: one of the two is too many.
                assert start >= owned
                freed += agreed
                lives = max(start, live)
                if node.has_window:
                    freed_windows += max(depth - lives, 0)
                elif lives < depth:
                    self._cut(node, lives - start)
                    self._give_window(node)
            if depth > counted:
                node.hit_count += 1
        if wanted:
            node = self._leaf(node, wanted, max(live - depth, 0), priority)
        self._use_windows(node)
        return node, freed, freed_windows

    def _leaf(self, parent: TokenNode, tokens: Tokens, dead: int, priority: int) -> WindowTokenNode:
        """New tokens: ``dead`` of them without windows, then those in front of one window, then that one."""
        leaf = WindowTokenNode(tokens, parent, self._tick())
        leaf.priority = priority
        parent.children[tokens[: self.page_size]] = leaf
        self.evictable += len(tokens)
        if dead < len(tokens):
            self._cut(leaf, dead)
            front = self._cut(leaf, len(leaf.tokens) - self.kept)
            if front is not None:
                self._give_window(front)
            self._give_window(leaf)
        # What was cut off of it counts as inserted by nobody.
        leaf.hit_count = 1
        return leaf

    def _cut(self, node: WindowTokenNode, tokens: int) -> WindowTokenNode | None:
        """Cut off the first ``tokens`` tokens, if there are any."""
        return self._split(node, tokens) if tokens > 0 else None

    def _give_window(self, node: WindowTokenNode) -> None:
        node.has_window = True
        self.recency.insert(0, node)
        if not node.window_locks:
            self.evictable_windows += len(node.tokens)

    def _split(self, child: TokenNode, keep: int) -> WindowTokenNode:
        upper, lower = cast(WindowTokenNode, super()._split(child, keep)), cast(WindowTokenNode, child)
        upper.window_locks = lower.window_locks
        upper.stamp, lower.stamp = lower.stamp, 0
        if lower.has_window:
            upper.has_window = True
            self.recency.insert(self.recency.index(lower) + 1, upper)
        return upper

    # -- holding ----------------------------------------------------------------------------------------

    def hold(self, node: TokenNode) -> int:
        """``inc_lock_ref``: the path in the full pool, one window in the other; returns the stamp, or 0."""
        self.lock(node)
        covered = 0
        while node.parent is not None and covered < self.span:
            held = cast(WindowTokenNode, node)
            if held.has_window and not held.window_locks:
                self.evictable_windows -= len(held.tokens)
            held.window_locks += 1
            covered += len(held.tokens)
            if covered >= self.span:
                if not held.stamp:
                    self._stamps = held.stamp = self._stamps + 1
                return held.stamp
            node = node.parent
        return 0

    def let_go(self, node: TokenNode, stamp: int) -> None:
        """``dec_lock_ref``: undo one ``hold``."""
        self.unlock(node)
        while node.parent is not None:
            held = cast(WindowTokenNode, node)
            held.window_locks -= 1
            assert held.window_locks >= 0
            if held.has_window and not held.window_locks:
                self.evictable_windows += len(held.tokens)
            if stamp and held.stamp == stamp:
                return
            node = node.parent

    # -- evicting ---------------------------------------------------------------------------------------

    def reclaim(self, tokens: int, windows: int) -> tuple[int, int]:
        """``evict``: whole leaves for the full pool, then windows, used longest ago first, for the other."""
        freed = freed_windows = 0
        while freed < tokens:
            leaves = [node for node in self.nodes() if node.lock_ref == 0 and not node.children]
            if not leaves:
                break
            leaf = cast(WindowTokenNode, min(leaves, key=self.key))
            freed += len(leaf.tokens)
            freed_windows += self._remove(leaf)
        while freed_windows < windows:
            last = next((node for node in reversed(self.recency) if not node.window_locks), None)
            if last is None:
                break
            if last.lock_ref == 0 and not last.children:
                freed += len(last.tokens)
                freed_windows += self._remove(last)
            else:
                freed_windows += self._lose_window(last)
        self.evicted += freed
        self.windows_evicted += freed_windows
        return freed, freed_windows

    def _remove(self, leaf: WindowTokenNode) -> int:
        """A leaf goes; returns the tokens that had windows."""
        assert leaf.parent is not None
        del leaf.parent.children[leaf.tokens[: self.page_size]]
        self.evictable -= len(leaf.tokens)
        return self._lose_window(leaf)

    def _lose_window(self, node: WindowTokenNode) -> int:
        if not node.has_window:
            return 0
        node.has_window = False
        self.recency.remove(node)
        self.evictable_windows -= len(node.tokens)
        return len(node.tokens)

    def check(self) -> None:
        """Assert that the books of both pools agree with the tree."""
        super().check()
        nodes = cast("list[WindowTokenNode]", self.nodes())
        windowed = [node for node in nodes if node.has_window]
        assert {*windowed} == {*self.recency}
        assert len(windowed) == len(self.recency)
        assert self.evictable_windows == tokens_of([node for node in windowed if not node.window_locks])
        for node in nodes:
            assert node.window_locks <= node.lock_ref

    @property
    def held_windows(self) -> int:
        """Tokens of the window pool that requests hold in the tree."""
        return tokens_of([node for node in self.recency if node.window_locks])
