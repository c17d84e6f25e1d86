"""SGLang's radix cache in segments: what a walk costs does not grow with the tokens it passes.

The tree is SGLang's own, node for node; only, a node keeps no tokens but points at the content of the
request that inserted it (``content``, ``start .. end``), and contents are compared run by run.

Verified by recordings of the real ``RadixCache`` and ``UnifiedRadixCache`` (Python and Rust core): matching,
insertion, splits, holds, eviction order and amount under all eight policies, page sizes 1, 4 and 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.sglang.eviction import EvictionPolicy
from kvplan.engine.sglang.radix_leaves import LeafQueue
from kvplan.engine.sglang.radix_tree import TreeKind
from kvplan.traces.request import Request

_EMPTY = Content((), ())
AGE_STEP = 1e-5
"""How much older than its child a node passed by a match is (``UnifiedRadixCache``)."""


class RadixNode:
    """Tokens ``start .. end`` of ``content`` (positions from the beginning of the sequence).

    ``ticket`` is not 0 while the node is an evictable leaf: nobody holds it and nothing hangs below.
    ``history`` stays when what was below is gone.
    """

    __slots__ = (
        "children", "content", "creation", "end", "history", "hit_count", "key", "last_access", "lock_ref",
        "parent", "priority", "start", "ticket",
    )  # fmt: skip

    def __init__(
        self, content: Content, start: int, end: int, parent: RadixNode | None, key: BlockKey, now: float
    ) -> None:
        self.content = content
        self.start = start
        self.end = end
        self.parent = parent
        self.key = key
        self.children: dict[BlockKey, RadixNode] = {}
        self.lock_ref = 0
        self.last_access = self.creation = now
        self.hit_count = 0
        self.priority = 0
        self.ticket = 0
        self.history = end
        above = parent
        while above is not None and above.history < end:
            above.history = end
            above = above.parent


class RadixIndex:
    """A radix prefix cache; see ``radix_tree.RadixTree`` for the contract.

    Time is a counter. ``unified``: every node an insertion passes gets a tick of its own, a match gives the
    deepest node a tick and each ancestor a trifle less, and a split renews the lower part and keeps the
    creation time. ``radix``: all nodes of one walk share a tick, and a split makes a new upper part.

    Args:
        page_size: tokens per page, at least 1.
        policy: which leaf is evicted first (``eviction.eviction_policy``).
        kind: whose clock to follow.
    """

    node_class: ClassVar[type[RadixNode]] = RadixNode

    def __init__(self, page_size: int, policy: EvictionPolicy, kind: TreeKind = "unified") -> None:
        self.page_size = page_size
        self.unified = kind == "unified"
        self.leaves = LeafQueue(policy)
        self.now = 1.0
        self.root = self.node_class(_EMPTY, 0, 0, None, 0, self.now)
        self.evictable = 0
        self.protected = 0
        self.evicted = 0

    def content(self, request: Request) -> Content:
        """Prompt and answer as runs."""
        return Content(request.prompt, request.output)

    def match(self, content: Content, limit: int) -> tuple[int, RadixNode]:
        """See ``RadixTree.match``."""
        page = self.page_size
        limit -= limit % page
        node = self.root
        if limit <= 0:
            return 0, node
        unified, leaves = self.unified, self.leaves
        now = self._tick()
        depth = 0
        while depth < limit:
            child = node.children.get(content.block_key(depth, page))
            if child is None:
                break
            end = child.end
            stop = end if end < limit else limit
            agreed = content.agrees_until(child.content, depth, stop)
            agreed -= agreed % page
            if not unified:
                child.last_access = now
                if child.ticket:
                    leaves.put(child)
            depth = agreed
            if agreed < end:
                node = self._split(child, agreed)
                break
            node = child
        if unified:
            self._found(node)
        else:
            self.root.last_access = now
        return depth, node

    def last_on_device(self, node: RadixNode) -> RadixNode:
        """The last node of a path that is on the device: here each is."""
        return node

    def found(self, last: RadixNode) -> int:
        """Leading tokens that count as cached where a match ends with a node, on the device or below."""
        return last.end

    def cached(self, content: Content, limit: int) -> int:
        """Leading tokens of a sequence that are here, up to ``limit``; looking changes nothing."""
        return max((depth for _, depth in self._agreeing(content, limit)), default=0)

    def _agreeing(self, content: Content, limit: int) -> Iterator[tuple[RadixNode, int]]:
        """The nodes whose tokens a sequence begins with, and up to where; changes nothing."""
        page, node, depth = self.page_size, self.root, 0
        limit -= limit % page
        while depth < limit:
            child = node.children.get(content.block_key(depth, page))
            if child is None:
                return
            agreed = content.agrees_until(child.content, depth, min(child.end, limit))
            depth = agreed - agreed % page
            yield child, depth
            if depth < child.end:
                return
            node = child

    def _passed(self, content: Content, limit: int) -> Iterator[RadixNode]:
        """The nodes a match of at most ``limit`` tokens passes; the last one is cut where it ends inside."""
        page, node, depth = self.page_size, self.root, 0
        limit -= limit % page
        while depth < limit:
            child = node.children.get(content.block_key(depth, page))
            if child is None:
                return
            end = child.end
            agreed = content.agrees_until(child.content, depth, end if end < limit else limit)
            depth = agreed - agreed % page
            node = child if depth == end else self._split(child, depth)
            yield node
            if node is not child:
                return

    def _found(self, node: RadixNode) -> None:
        """A match ends with a node: it becomes the most recently used one, and its ancestors before it."""
        now = self._tick()
        seen: RadixNode | None = node
        while seen is not None:
            seen.last_access = now
            now -= AGE_STEP
            seen = seen.parent
        if node.ticket:
            self.leaves.put(node)

    def insert(self, content: Content, length: int, priority: int, counted: int) -> int:
        """See ``RadixTree.insert``."""
        return self._descend(self.root, content, length, priority, counted)[0]

    def advance(
        self, node: RadixNode, content: Content, length: int, priority: int, counted: int
    ) -> tuple[int, RadixNode]:
        """See ``RadixTree.advance``.

        The path to ``node`` is known to be there, so only what is below is searched; and the match that
        follows the insertion passes the same nodes, so only its times are written down.
        """
        present, found = self._descend(node, content, length, priority, counted)
        if counted < node.end:
            self._count_path(node, priority, counted)
        now = self._tick()
        step = AGE_STEP if self.unified else 0.0
        seen: RadixNode | None = found
        while seen is not None:
            seen.last_access = now
            now -= step
            seen = seen.parent
        if found is not node:
            if found.ticket:
                self.leaves.discard(found)
            below = found
            while below is not node:
                if below.lock_ref == 0:
                    tokens = below.end - below.start
                    self.evictable -= tokens
                    self.protected += tokens
                below.lock_ref += 1
                assert below.parent is not None
                below = below.parent
        return present, found

    def conclude(
        self, node: RadixNode, content: Content, length: int, prompt: int, priority: int, counted: int
    ) -> int:
        """See ``RadixTree.conclude``; again only what is below ``node`` is searched."""
        page = self.page_size
        aligned = length - length % page
        present, _ = self._descend(node, content, length, priority, counted)
        if counted < node.end:
            self._count_path(node, priority, counted)
        again = prompt - prompt % page
        if again == node.end:
            priority += 1
        elif again:
            self._touch_path(node, priority)
            self._descend(self.root, content, prompt, priority + 1, max(counted, aligned))
            return present
        self._touch_path(node, priority)
        return present

    def _count_path(self, node: RadixNode, priority: int, counted: int) -> None:
        """The first insertion of a request over a path it found cached."""
        while node.end > counted:
            node.hit_count += 1
            if node.priority < priority:
                node.priority = priority
            assert node.parent is not None
            node = node.parent

    def _touch_path(self, node: RadixNode, priority: int) -> None:
        """An insertion passes all nodes down to ``node``, which somebody holds."""
        now = self._tick()
        if self.unified:
            # Each node has a tick of its own, rising with depth.
            depth = 0
            seen = node
            while seen.parent is not None:
                depth += 1
                seen = seen.parent
            self.now = now = now + depth
        while node.parent is not None:
            node.last_access = now
            if node.priority < priority:
                node.priority = priority
            if self.unified:
                now -= 1.0
            node = node.parent

    def _descend(
        self, node: RadixNode, content: Content, length: int, priority: int, counted: int
    ) -> tuple[int, RadixNode]:
        """Insert what lies below ``node``, up to ``length`` tokens from the beginning of the sequence.

        Returns the tokens that were there already (the path to ``node`` included) and the last node.
        """
        page = self.page_size
        length -= length % page
        unified, leaves = self.unified, self.leaves
        now = self._tick()
        present = node.end
        while present < length:
            child = node.children.get(content.block_key(present, page))
            if child is None:
                break
            child.last_access = self._tick() if unified else now
            end = child.end
            stop = end if end < length else length
            agreed = content.agrees_until(child.content, present, stop)
            agreed -= agreed % page
            node = child if agreed == end else self._split(child, agreed)
            if node.priority < priority:
                node.priority = priority
            present = agreed
            if present > counted:
                node.hit_count += 1
            # A split has put the lower part where it belongs; the upper part is no leaf.
            if node.ticket:
                leaves.put(node)
        if present < length:
            key = content.block_key(present, page)
            leaf = self.node_class(content, present, length, node, key, self._tick())
            leaf.priority = priority
            if length > counted:
                leaf.hit_count = 1
            node.children[key] = leaf
            self.evictable += length - present
            leaves.discard(node)
            leaves.put(leaf)
            return present, leaf
        return present, node

    def lock(self, node: RadixNode) -> None:
        """See ``RadixTree.lock``."""
        if node.ticket:
            self.leaves.discard(node)
        parent = node.parent
        while parent is not None:
            if node.lock_ref == 0:
                tokens = node.end - node.start
                self.evictable -= tokens
                self.protected += tokens
            node.lock_ref += 1
            node = parent
            parent = node.parent

    def unlock(self, node: RadixNode) -> None:
        """See ``RadixTree.unlock``."""
        last = node
        parent = node.parent
        while parent is not None:
            node.lock_ref -= 1
            if node.lock_ref == 0:
                tokens = node.end - node.start
                self.evictable += tokens
                self.protected -= tokens
            node = parent
            parent = node.parent
        self._may_go(last)

    def evict(self, tokens: int) -> int:
        """See ``RadixTree.evict``."""
        freed = 0
        while freed < tokens:
            leaf = self.leaves.pop()
            if leaf is None:
                break
            freed += leaf.end - leaf.start
            self._cut_off(leaf)
        self.evictable -= freed
        self.evicted += freed
        return freed

    def unheld(self, node: RadixNode) -> int:
        """See ``RadixTree.unheld``."""
        # Whoever holds a node holds its ancestors, so what nobody holds is the end of the path.
        end = node.end
        parent = node.parent
        while parent is not None and node.lock_ref == 0:
            node = parent
            parent = node.parent
        return end - node.end

    def _cut_off(self, leaf: RadixNode) -> None:
        """A leaf that is evicted leaves the tree."""
        parent = leaf.parent
        assert parent is not None
        del parent.children[leaf.key]
        self._may_go(parent)

    def _may_go(self, node: RadixNode) -> None:
        if node.lock_ref == 0 and not node.children and node.parent is not None:
            self.leaves.put(node)

    def _split(self, child: RadixNode, position: int) -> RadixNode:
        """Cut a node; returns the new upper part, ``child`` stays the lower one."""
        parent = child.parent
        assert parent is not None
        upper = self.node_class(child.content, child.start, position, parent, child.key, self._tick())
        upper.lock_ref = child.lock_ref
        upper.hit_count = child.hit_count
        upper.priority = child.priority
        upper.history = child.history
        parent.children[child.key] = upper
        child.parent = upper
        child.start = position
        child.key = child.content.block_key(position, self.page_size)
        upper.children[child.key] = child
        if self.unified:
            upper.creation = child.creation
            child.last_access = self._tick()
        if child.ticket:
            self.leaves.put(child)
        return upper

    def _tick(self) -> float:
        self.now += 1.0
        return self.now
