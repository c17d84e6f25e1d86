"""SGLang's radix cache over two pools: ``UnifiedRadixCache`` with full attention and sliding windows.

A prefix counts as cached only if the window before its end is there: a match ends with the last node behind
which as many tokens have windows in a row as layers look back. Insertions walk from the root, node by node,
and may bring windows back where they were gone.

Verified by recordings of the real cache (both cores), page sizes 1 and more, under all eviction policies;
windows themselves always go by their last use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

from kvplan.engine.content import Content
from kvplan.engine.sglang.eviction import EvictionPolicy
from kvplan.engine.sglang.found import Found
from kvplan.engine.sglang.prefix_radix import RadixIndex
from kvplan.engine.sglang_windows.node import WindowNode
from kvplan.engine.sglang_windows.recency import WindowQueue
from kvplan.engine.sglang_windows.windows import SlidingWindows


class Inserted(NamedTuple):
    """The node with which the inserted tokens end, and tokens of a request that the pools get back."""

    node: WindowNode
    freed: int
    freed_windows: int


class WindowIndex(RadixIndex):
    """A radix cache whose nodes may have lost their windows.

    ``evictable``, ``protected`` and ``evicted`` are tokens of the full pool, as of ``RadixIndex``.

    Attributes:
        evictable_windows: tokens of the window pool that nobody holds.
        held_windows: those that somebody holds.
        evicted_windows: those that went for want of room.

    Args:
        page_size, policy: as of ``RadixIndex``.
        windows: how far layers look back.
    """

    node_class = WindowNode
    root: WindowNode

    def __init__(self, page_size: int, policy: EvictionPolicy, windows: SlidingWindows) -> None:
        super().__init__(page_size, policy)
        self.begin(windows)

    def begin(self, windows: SlidingWindows) -> None:
        """Have layers look back as far as that; nothing is cached yet."""
        self.span = windows.span
        self.kept = windows.kept(self.page_size)
        self.evictable_windows = self.held_windows = self.evicted_windows = 0
        self._recency = WindowQueue()
        self._uses = 0

    # -- looking ----------------------------------------------------------------------------------------

    def match(self, content: Content, limit: int) -> tuple[int, WindowNode]:
        """See ``RadixTree.match``."""
        found = self.look(content, limit)
        return found.hit, found.node

    def look(self, content: Content, limit: int) -> Found[WindowNode]:
        """As ``match``, and how far the prefix goes on without a window."""
        span, usable = self.span, self.root
        if limit < self.page_size:
            return Found(0, usable, 0, usable)
        # Whole prefixes have all the windows there ever were.
        in_row = span
        depth = 0
        for node in cast("Iterator[WindowNode]", self._passed(content, limit)):
            depth = node.end
            in_row = in_row + node.tokens if node.has_window else 0
            if in_row >= span:
                usable = node
        self._use_windows(usable)
        self._found(usable)
        return Found(usable.end, usable, depth, usable)

    def cached(self, content: Content, limit: int) -> int:
        """See ``RadixIndex.cached``."""
        span = in_row = self.span
        usable = 0
        for node, depth in cast("Iterator[tuple[WindowNode, int]]", self._agreeing(content, limit)):
            in_row = in_row + depth - node.start if node.has_window else 0
            if in_row >= span:
                usable = depth
        return usable

    def _use_windows(self, node: WindowNode) -> None:
        """The windows at the end of a path are used: one page more than layers look back, whole nodes."""
        self._uses = now = self._uses + 1
        most, passed = self.span + self.page_size, 0
        while node.parent is not None and passed < most:
            if node.has_window:
                node.window_tick = now
                if node.window_ticket:
                    self._recency.put(node)
            passed += node.tokens
            node = node.parent

    # -- inserting --------------------------------------------------------------------------------------

    def add(
        self, content: Content, length: int, priority: int, *, counted: int, owned: int, live: int
    ) -> Inserted:
        """Insert the first ``length`` tokens of a request.

        Args:
            counted: as of ``RadixTree.insert``.
            owned: leading tokens that are the tree's already, and held by the request.
            live: the request has given back the windows of its own tokens before this one.
        """
        page, node = self.page_size, self.root
        length -= length % page
        node.last_access = self._tick()
        depth = freed = freed_windows = 0
        while depth < length:
            child = node.children.get(content.block_key(depth, page))
            if child is None:
                break
            child.last_access = self._tick()
            agreed = end = child.end
            if end > owned:
                agreed = content.agrees_until(child.content, depth, end if end < length else length)
                agreed -= agreed % page
            node = child if agreed == end else self._split(child, agreed)
            if node.priority < priority:
                node.priority = priority
            if agreed > owned:
                freed += self._renew(node)
                alive = max(depth, live)
                if alive < agreed:
                    if node.has_window:
                        freed_windows += agreed - alive
                    else:
                        # The request's windows take the place of those that are gone.
                        if alive > depth:
                            self._split(node, alive)
                        self._give_window(node)
            depth = agreed
            self._visit(node, depth > counted)
        if depth < length:
            node = self._add_leaf(node, content, depth, length, priority, live)
            self._use_windows(node)
            self._visit(node, length > counted)
        else:
            self._use_windows(node)
            self._complete(node)
        return Inserted(node, freed, freed_windows)

    def _renew(self, node: WindowNode) -> int:
        """An insertion brings a node's tokens again; how many of them were there and are freed."""
        return node.tokens

    def _visit(self, node: WindowNode, counts: bool) -> None:
        """An insertion has reached a node; whether it ``counts`` for it."""
        if counts:
            node.hit_count += 1
        if node.ticket:
            self.leaves.put(node)

    def _complete(self, node: WindowNode) -> None:
        """An insertion ends with a node that was there."""

    def _add_leaf(
        self, parent: WindowNode, content: Content, start: int, end: int, priority: int, live: int
    ) -> WindowNode:
        """New tokens below ``parent``: without windows up to ``live``, and cut where a window begins."""
        key = content.block_key(start, self.page_size)
        leaf = self.node_class(content, start, end, parent, key, self._tick())
        leaf.priority = priority
        parent.children[key] = leaf
        self._attach(leaf, parent)
        alive = max(start, live)
        if alive < end:
            if alive > start:
                self._split(leaf, alive)
            if end - alive > self.kept:
                # Who holds it holds one window in the pool, not all of it.
                self._give_window(self._split(leaf, end - self.kept))
            self._give_window(leaf)
        return leaf

    def _attach(self, leaf: WindowNode, parent: WindowNode) -> None:
        """New tokens hang below ``parent``."""
        self.evictable += leaf.tokens
        self.leaves.discard(parent)
        self.leaves.put(leaf)

    def _give_window(self, node: WindowNode) -> None:
        """A node gets windows, which are the most recent ones."""
        node.has_window = True
        self._uses = node.window_tick = self._uses + 1
        if node.window_locks:
            self.held_windows += node.tokens
        else:
            self.evictable_windows += node.tokens
            self._recency.put(node)

    # -- holding ----------------------------------------------------------------------------------------

    def hold(self, node: WindowNode) -> int:
        """Hold the node with its ancestors, and the windows before its end; returns where these begin."""
        self.lock(node)
        passed, span, start = 0, self.span, node.end
        while node.parent is not None and passed < span:
            if node.window_locks == 0 and node.has_window:
                self._recency.discard(node)
                self.evictable_windows -= node.tokens
                self.held_windows += node.tokens
            node.window_locks += 1
            passed += node.tokens
            start = node.start
            node = node.parent
        return start

    def let_go(self, node: WindowNode, start: int) -> None:
        """Undo one ``hold``, which began at ``start``: its nodes may have been cut since."""
        last = node
        while node.parent is not None and node.start >= start:
            node.window_locks -= 1
            if node.window_locks == 0 and node.has_window:
                self.held_windows -= node.tokens
                self.evictable_windows += node.tokens
                self._recency.put(node)
            node = node.parent
        self.unlock(last)

    # -- evicting ---------------------------------------------------------------------------------------

    def reclaim(self, tokens: int, windows: int) -> tuple[int, int]:
        """Evict leaves until ``tokens`` tokens are free, then windows until ``windows`` are, or nothing is
        left; returns tokens freed in each pool. Leaves go with their windows; elsewhere these go alone."""
        freed = freed_windows = 0
        while freed < tokens:
            leaf = self.leaves.pop()
            if leaf is None:
                break
            assert isinstance(leaf, WindowNode)
            if leaf.has_window:
                freed_windows += leaf.tokens
            freed += leaf.tokens
            self._evict_leaf(leaf)
        while freed_windows < windows:
            node = self._recency.pop()
            if node is None:
                break
            freed_windows += node.tokens
            if node.ticket:
                self.leaves.discard(node)
                freed += node.tokens
                self._evict_leaf(node)
            else:
                self._evict_window(node)
        return freed, freed_windows

    def _evict_leaf(self, leaf: WindowNode) -> None:
        """A leaf goes, with its window."""
        self.evictable -= leaf.tokens
        self.evicted += leaf.tokens
        if leaf.has_window:
            self._evict_window(leaf)
        self._cut_off(leaf)

    def _evict_window(self, node: WindowNode) -> None:
        """A window nobody holds goes."""
        self._recency.discard(node)
        node.has_window = False
        self.evictable_windows -= node.tokens
        self.evicted_windows += node.tokens

    def _split(self, child: WindowNode, position: int) -> WindowNode:  # type: ignore[override]
        """See ``RadixIndex._split``; windows are cut with their node."""
        upper = super()._split(child, position)
        assert isinstance(upper, WindowNode)
        upper.window_locks = child.window_locks
        upper.has_window, upper.window_tick = child.has_window, child.window_tick
        if child.window_ticket:
            self._order_of(upper).put(upper)
        return upper

    def _order_of(self, node: WindowNode) -> WindowQueue:
        """The order in which a node's windows go."""
        return self._recency
