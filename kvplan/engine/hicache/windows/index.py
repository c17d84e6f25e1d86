"""SGLang's radix cache over tokens and sliding windows, each on the device and in the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from kvplan.engine.content import Content
from kvplan.engine.hicache.beside import BesideIndex, BesideNode
from kvplan.engine.hicache.copies import Copies, Parcel
from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.index import HierarchicalIndex, WritePolicy
from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.hicache.windows.memory import HostWindows
from kvplan.engine.hicache.windows.node import HostedWindowNode
from kvplan.engine.sglang.eviction import EvictionPolicy
from kvplan.engine.sglang.found import Found
from kvplan.engine.sglang.prefix_radix import RadixNode
from kvplan.engine.sglang_windows.index import WindowIndex
from kvplan.engine.sglang_windows.node import WindowNode
from kvplan.engine.sglang_windows.recency import WindowQueue
from kvplan.engine.sglang_windows.windows import SlidingWindows


class HostedWindowIndex(WindowIndex, BesideIndex):
    """A radix cache with sliding windows that goes on in the host.

    Args:
        page_size, policy, write, host, copies: as of ``HierarchicalIndex``.
        host_windows: the host's pool for windows, empty.
        windows: how far layers look back.
    """

    node_class = HostedWindowNode
    root: HostedWindowNode
    host_beside: HostWindows

    def __init__(
        self,
        page_size: int,
        policy: EvictionPolicy,
        write: WritePolicy,
        host: HostMemory,
        copies: Copies,
        host_windows: HostWindows,
        windows: SlidingWindows,
    ) -> None:
        HierarchicalIndex.__init__(self, page_size, policy, write, host, copies)
        self.begin(windows)
        self.host_beside = host_windows

    # -- looking ----------------------------------------------------------------------------------------

    def match(self, content: Content, limit: int) -> tuple[int, HostedWindowNode]:
        """See ``HierarchicalIndex.match``; of prefixes with a window at their end."""
        return cast("tuple[int, HostedWindowNode]", HierarchicalIndex.match(self, content, limit))

    def look(self, content: Content, limit: int) -> Found[HostedWindowNode]:
        """See ``WindowIndex.look``; the longest prefix that is kept anywhere becomes recently used."""
        span, anchor = self.span, self.root
        last = anchor
        if limit < self.page_size:
            return Found(0, anchor, 0, last)
        on_device = anywhere = span
        depth = 0
        for node in cast("Iterator[HostedWindowNode]", self._passed(content, limit)):
            depth = node.end
            on_device = on_device + node.tokens if node.has_window else 0
            anywhere = anywhere + node.tokens if node.has_window or node.beside_on_host else 0
            if on_device >= span:
                anchor = node
            if anywhere >= span:
                last = node
        self._use_windows(last)
        self._found(last)
        lacking = sum(node.tokens for node in self._needed(last) if not node.has_window)
        return Found(anchor.end, anchor, depth, last, self._below(last, anchor), lacking)

    def last_on_device(self, node: RadixNode) -> HostedWindowNode:
        """As the base class: the last one with a window there."""
        path: list[HostedWindowNode] = []
        while node.parent is not None:
            path.append(cast(HostedWindowNode, node))
            node = node.parent
        in_row, last = self.span, self.root
        for each in reversed(path):
            in_row = in_row + each.tokens if each.has_window else 0
            if in_row >= self.span:
                last = each
        return last

    def cached(self, content: Content, limit: int) -> int:
        """As the base class; of prefixes with a window at their end, on the device or in the host."""
        in_row, usable = self.span, 0
        for node, depth in cast("Iterator[tuple[HostedWindowNode, int]]", self._agreeing(content, limit)):
            in_row = in_row + depth - node.start if node.has_window or node.beside_on_host else 0
            if in_row >= self.span:
                usable = depth
        return usable

    # -- inserting --------------------------------------------------------------------------------------

    def _renew(self, node: WindowNode) -> int:
        """As the base class; where tokens are only in the host, the tree takes the new ones."""
        assert isinstance(node, HostedWindowNode)
        if node.on_device:
            return node.tokens
        self._arrive(node)
        if self.duplicates is not None:
            self.duplicates.note(node)
        return 0

    def _visit(self, node: RadixNode, counts: bool) -> None:
        """See ``HierarchicalIndex``, whose tree this is."""
        super(WindowIndex, self)._visit(cast(HostedWindowNode, node), counts)

    def _complete(self, node: WindowNode) -> None:
        """As the base class; windows that it was given follow its tokens, unless these are on their way."""
        assert isinstance(node, HostedWindowNode)
        if self.duplicates is None and node.on_host and self._unsaved(node):
            self._back_up(node)

    def _attach(self, leaf: WindowNode, parent: WindowNode) -> None:
        """As the base class."""
        cast(HostedWindowNode, parent).resident += 1
        self.evictable += leaf.tokens
        self._place(cast(HostedWindowNode, parent))
        self._place(cast(HostedWindowNode, leaf))

    def _give_window(self, node: WindowNode) -> None:
        """As the base class."""
        self.host_beside.leave(cast(HostedWindowNode, node))
        super()._give_window(node)

    # -- the host ---------------------------------------------------------------------------------------

    def _units(self, node: BesideNode) -> int:
        """See the base class: a place for each token."""
        return node.tokens

    def _unsaved(self, node: BesideNode) -> list[BesideNode]:
        """See the base class: the windows before its end, as far as they follow each other and nothing of
        them is on its way."""
        found: list[BesideNode] = []
        for each in self._needed(node):
            if each.writing is not None or not (each.has_window or each.beside_on_host):
                break
            if not each.beside_on_host:
                found.append(each)
        return found

    def _needed(self, last: BesideNode) -> Iterator[HostedWindowNode]:
        """See the base class: those that a layer looks at from behind it."""
        passed, node = 0, cast(HostedWindowNode, last)
        while node.parent is not None and passed < self.span:
            yield node
            passed += node.tokens
            node = node.parent

    def _parcel(self, tokens: int, units: int) -> Parcel:
        """See the base class; windows travel by pages."""
        return Parcel(tokens, units // self.page_size)

    def _hold_for_write(self, node: HostedNode) -> None:
        assert isinstance(node, HostedWindowNode)
        node.written_from = self.hold(node)

    def _let_go_of_write(self, node: HostedNode) -> None:
        assert isinstance(node, HostedWindowNode)
        self.let_go(node, node.written_from)

    # -- loading ----------------------------------------------------------------------------------------

    def loadable(self, last: HostedNode) -> bool:
        """Whether nothing that a load up to a node would read is being read up to another node."""
        window = self._needed(cast(HostedWindowNode, last))
        return all(node.loading in (None, last) for node in window if not node.has_window)

    def _hold_for_load(self, last: HostedNode) -> None:
        assert isinstance(last, HostedWindowNode)
        last.loaded_from = self.hold(last)

    def _let_go_of_load(self, last: HostedNode) -> None:
        assert isinstance(last, HostedWindowNode)
        self.let_go(last, last.loaded_from)

    def _loaded_with(self, last: HostedNode, tokens: int) -> Parcel:
        """As the base class, with what is missing of its window."""
        lacking = [node for node in self._needed(cast(HostedWindowNode, last)) if not node.has_window]
        for node in reversed(lacking):
            self._give_window(node)
        return Parcel(tokens, sum(node.tokens for node in lacking) // self.page_size)

    # -- evicting from the device -----------------------------------------------------------------------

    def _evict_leaf(self, leaf: RadixNode) -> None:
        """See ``HierarchicalIndex``, whose tree this is."""
        super(WindowIndex, self)._evict_leaf(cast(HostedWindowNode, leaf))

    def _evict_window(self, node: WindowNode) -> None:
        """As the base class; a copy that is made of it first has its tokens, too."""
        assert isinstance(node, HostedWindowNode)
        self._save_first(node)
        self._drop_window(node)

    def _leave(self, node: HostedNode) -> None:
        """As the base class, with its windows."""
        assert isinstance(node, HostedWindowNode)
        super()._leave(node)
        if node.has_window:
            self._drop_window(node)

    def _drop_window(self, node: HostedWindowNode) -> None:
        """Windows leave the device; they may be in the host still."""
        super()._evict_window(node)
        if node.beside_on_host:
            self.host_beside.enter(node)

    def _order_of(self, node: WindowNode) -> WindowQueue:
        """As the base class, in the host if they are only there."""
        return super()._order_of(node) if node.has_window else self.host_beside.order

    def _split(self, child: WindowNode, position: int) -> HostedWindowNode:  # type: ignore[override]
        """As both base classes; what the host has of its windows is cut with it."""
        assert isinstance(child, HostedWindowNode)
        upper = cast(HostedWindowNode, super()._split(child, position))
        upper.beside_on_host = child.beside_on_host
        return upper
