"""SGLang's radix cache over device and host: ``UnifiedRadixCache`` with HiCache, for full attention.

Insertions walk from the root, node by node, as SGLang's do: each node may have to be copied, in that order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias, cast

from kvplan.engine.content import Content
from kvplan.engine.hicache.copies import Copies, Parcel
from kvplan.engine.hicache.duplicates import Duplicates
from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.hicache.tree import HostedTree
from kvplan.engine.sglang.eviction import EvictionPolicy
from kvplan.engine.sglang.found import Found
from kvplan.engine.sglang.prefix_radix import RadixNode

WritePolicy: TypeAlias = Literal["write_through", "write_through_selective", "write_back"]
"""``--hicache-write-policy``."""

WRITE_POLICIES: tuple[WritePolicy, ...] = ("write_through", "write_through_selective", "write_back")

INSERTIONS: dict[WritePolicy, int] = {"write_through": 1, "write_through_selective": 2}
"""With which insertion a node is copied to the host."""

LOAD_BACK_TOKENS = 10
"""A hit in the host that is shorter is computed again (``load_back_threshold``)."""


class HierarchicalIndex(HostedTree):
    """A radix cache that goes on in the host.

    ``evictable``, ``protected`` and ``evicted`` are tokens on the device, as of ``RadixIndex``.

    Args:
        page_size, policy: as of ``RadixIndex``; the policy orders what leaves the host, too.
        write: when a node is copied to the host.
        host: the host's pool, empty.
        copies: what is on its way.
    """

    def __init__(
        self,
        page_size: int,
        policy: EvictionPolicy,
        write: WritePolicy,
        host: HostMemory,
        copies: Copies,
    ) -> None:
        super().__init__(page_size, policy)
        self.host = host
        self.copies = copies
        if write == "write_back":
            self.duplicates = Duplicates()
        self._insertions = INSERTIONS.get(write, 0)

    # -- looking ----------------------------------------------------------------------------------------

    def match(self, content: Content, limit: int) -> tuple[int, HostedNode]:
        """Leading tokens on the device that can be used, and the node with which those end that can be once
        everything is there: it may be only in the host."""
        found = self.look(content, limit)
        return found.hit, found.last

    def look(self, content: Content, limit: int) -> Found[HostedNode]:
        """Longest prefix of at most ``limit`` tokens that is kept anywhere; it becomes recently used."""
        last = anchor = self.root
        if limit < self.page_size:
            return Found(0, anchor, 0, last)
        for last in cast("Iterator[HostedNode]", self._passed(content, limit)):
            if last.on_device:
                anchor = last
        self._found(last)
        return Found(anchor.end, anchor, last.end, last, self._below(last, anchor))

    def found(self, last: RadixNode) -> int:
        """As the base class; what is on the device behind the last that can be used there counts if the host
        has it."""
        anchor = self.last_on_device(last)
        return anchor.end + self._below(cast(HostedNode, last), anchor)

    @staticmethod
    def _below(last: HostedNode, anchor: HostedNode) -> int:
        tokens = 0
        while last is not anchor:
            if last.on_host:
                tokens += last.tokens
            assert last.parent is not None
            last = last.parent
        return tokens

    # -- inserting --------------------------------------------------------------------------------------

    def insert(self, content: Content, length: int, priority: int, counted: int) -> int:
        """See ``RadixTree.insert``; where tokens are only in the host, the tree takes the new ones."""
        return self._insert(content, length, priority, counted)[0]

    def advance(  # type: ignore[override]
        self, node: HostedNode, content: Content, length: int, priority: int, counted: int
    ) -> tuple[int, HostedNode]:
        """See ``RadixTree.advance``."""
        present, found = self._insert(content, length, priority, counted)
        self.unlock(node)
        self.lock(found)
        return present, found

    def conclude(  # type: ignore[override]
        self, node: HostedNode, content: Content, length: int, prompt: int, priority: int, counted: int
    ) -> int:
        """See ``RadixTree.conclude``."""
        present, _ = self._insert(content, length, priority, counted)
        if prompt >= self.page_size:
            self._insert(content, prompt, priority + 1, max(counted, length - length % self.page_size))
        return present

    def _insert(self, content: Content, length: int, priority: int, counted: int) -> tuple[int, HostedNode]:
        """Tokens that were on the device before, and the node with which the inserted ones end."""
        resident, node, new = self._walk(content, length, priority, counted)
        if new:
            self._visit(node, length - length % self.page_size > counted)
        return resident, node

    def _walk(
        self, content: Content, length: int, priority: int, counted: int
    ) -> tuple[int, HostedNode, bool]:
        """``_insert`` up to where its last node, if that is new, has been put in; whether it is."""
        page, node = self.page_size, self.root
        length -= length % page
        node.last_access = self._tick()
        depth = resident = 0
        while depth < length:
            child = node.children.get(content.block_key(depth, page))
            if child is None:
                break
            child.last_access = self._tick()
            end = child.end
            agreed = content.agrees_until(child.content, depth, end if end < length else length)
            depth = agreed - agreed % page
            node = child if depth == end else self._split(child, depth)
            if node.priority < priority:
                node.priority = priority
            if node.on_device:
                resident = depth
            else:
                self._arrive(node)
                if self.duplicates is not None:
                    self.duplicates.note(node)
            self._visit(node, depth > counted)
        if depth < length:
            key = content.block_key(depth, page)
            leaf = cast(HostedNode, self.node_class(content, depth, length, node, key, self._tick()))
            leaf.priority = priority
            node.children[key] = leaf
            node.resident += 1
            self.evictable += length - depth
            self._place(node)
            return resident, leaf, True
        return resident, node, False

    def _visit(self, node: HostedNode, counts: bool) -> None:
        """An insertion has reached a node; if it ``counts`` for it, that may be the one to copy it."""
        due = False
        if counts and self._insertions:
            node.hit_count += 1
            due = not node.on_host and node.hit_count >= self._insertions
        self._place(node)
        if due:
            self._back_up(node)

    # -- the host ---------------------------------------------------------------------------------------

    def _back_up(self, node: HostedNode) -> None:
        """Copy what the host lacks of a node, after those of its ancestors that are not there."""
        chain = [node]
        missing = node.parent
        while missing is not None and missing.parent is not None and not missing.on_host:
            chain.append(missing)
            missing = missing.parent
        for each in reversed(chain):
            if not self._send(each):
                return

    def _send(self, node: HostedNode) -> bool:
        """Copy a node, which is held meanwhile; whether the host has room."""
        parcel = self._store(node)
        if parcel is None:
            return False
        self._hold_for_write(node)
        self.copies.write(node, parcel)
        return True

    def _hold_for_write(self, node: HostedNode) -> None:
        self.lock(node)

    def _let_go_of_write(self, node: HostedNode) -> None:
        self.unlock(node)

    def _landed(self, node: HostedNode) -> None:
        """A copy has arrived in the host."""
        self._let_go_of_write(node)

    def _store(self, node: HostedNode) -> Parcel | None:
        """Put a node into the host; returns what travels, or None without room; what was evicted for it is
        gone."""
        if not self._has_room(node.tokens):
            return None
        self.host.put(node.tokens)
        node.on_host = True
        return Parcel(node.tokens)

    def _has_room(self, tokens: int) -> bool:
        """Make room in the host; whether there is."""
        short = tokens - self.host.free
        return short <= 0 or self._evict_host(short) >= short

    def _evict_host(self, tokens: int) -> int:
        """Evict from the host until ``tokens`` tokens are free or nothing is left; returns tokens freed."""
        freed = 0 if self.duplicates is None else self.duplicates.reclaim(tokens, self.host)
        while freed < tokens:
            leaf = self.host_leaves.pop()
            if leaf is None:
                break
            assert isinstance(leaf, HostedNode)
            freed += leaf.tokens
            self._forget(leaf)
        return freed

    def _forget(self, node: HostedNode) -> None:
        """A node that is not on the device and has no children leaves the tree, and the host."""
        parent = node.parent
        assert parent is not None
        if node.ticket:
            self.host_leaves.discard(node)
        if node.on_host:
            self.host.drop(node.tokens)
        if self.duplicates is not None:
            self.duplicates.forget(node)
        del parent.children[node.key]
        self._place(parent)

    @staticmethod
    def lacking(last: HostedNode) -> int:
        """Tokens on the path to a node that are only in the host."""
        tokens = 0
        while not last.on_device:
            tokens += last.tokens
            assert last.parent is not None
            last = last.parent
        return tokens

    def pin(self, node: HostedNode) -> None:
        """A load will read what the host has at the end of a node: its tokens' copy stays there with it."""
        node.pinned += 1
        node.pinned_from = node.start

    def unpin(self, node: HostedNode) -> None:
        """Undo ``pin``; the node may have been cut since."""
        start, node.pinned_from = node.pinned_from, -1
        piece: HostedNode | None = node
        while piece is not None and piece.start >= start and piece.parent is not None:
            piece.pinned -= 1
            piece = piece.parent

    def load(self, last: HostedNode) -> int:
        """Bring back the path to a node that is only in the host; returns its tokens.

        The device must have room for them, and the caller hold the node. The load holds the path, too, until
        ``settle`` finds that it has arrived.
        """
        path = []
        node = last
        while not node.on_device:
            path.append(node)
            assert node.parent is not None
            node = node.parent
        for node in reversed(path):
            self._arrive(node)
            if self.duplicates is not None:
                node.loading = last
        tokens = sum(node.tokens for node in path)
        self._hold_for_load(last)
        self.copies.read(last, self._loaded_with(last, tokens))
        return tokens

    def _hold_for_load(self, last: HostedNode) -> None:
        self.lock(last)

    def _loaded_with(self, last: HostedNode, tokens: int) -> Parcel:
        """What travels with a load of so many tokens."""
        return Parcel(tokens)

    def settle(self) -> None:
        """Let go of what has been written or has arrived by now (``writing_check``, ``loading_check``)."""
        copies = self.copies
        copies.flush()
        while copies.writes and copies.writes[0][0] <= copies.now:
            for node in copies.writes.popleft()[1]:
                self._landed(node)
        while copies.loads and copies.loads[0][0] <= copies.now:
            for last in copies.loads.popleft()[1]:
                self._loaded(last)

    def _let_go_of_load(self, last: HostedNode) -> None:
        self.unlock(last)

    def _loaded(self, last: HostedNode) -> None:
        """A load has arrived on the device."""
        self._let_go_of_load(last)
        duplicates = self.duplicates
        node: HostedNode | None = None if duplicates is None else last
        while node is not None:
            assert duplicates is not None
            if node.loading is last:
                node.loading = None
                duplicates.note(node)
            node = node.parent

    # -- evicting from the device -----------------------------------------------------------------------

    def evict(self, tokens: int) -> int:
        """See ``RadixTree.evict``: leaves of what is on the device go; what the host has stays there."""
        freed = 0
        while freed < tokens:
            leaf = self.leaves.pop()
            if leaf is None:
                break
            assert isinstance(leaf, HostedNode)
            freed += leaf.tokens
            self._evict_leaf(leaf)
        return freed

    def _evict_leaf(self, leaf: HostedNode) -> None:
        """A leaf of what is on the device goes, into the host if it may."""
        self.evicted += leaf.tokens
        if leaf.on_host:
            self._leave(leaf)
        elif self.duplicates is None:
            self._leave(leaf)
            self._forget(leaf)
        elif self._save(leaf):
            self._leave(leaf)
        else:
            self._leave(leaf)
            self._drop(leaf)

    def _save(self, node: HostedNode) -> bool:
        """``write_back``: copy a node to the host, and wait for it; whether there was room."""
        assert self.duplicates is not None
        parcel = self._store(node)
        if parcel is None:
            return False
        self.copies.write_and_wait(parcel)
        self.duplicates.note(node)
        return True

    def _drop(self, top: HostedNode) -> None:
        """A node that has no room in the host is lost, with what hangs below it there."""
        left = [top]
        found: list[HostedNode] = []
        while left:
            node = left.pop()
            found.append(node)
            left += node.children.values()
        for node in reversed(found):
            self._forget(node)
