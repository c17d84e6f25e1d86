"""The prefix index: which full blocks of content are cached, in segments instead of blocks.

A tree over block contents. A node is a run of blocks with the same ancestry; its *copies* are the physical
runs that hold this content, in the order of their publication (vLLM does not de-duplicate; a look-up takes
the copy published first). Every copy covers its node exactly: where coverage, holders or content begin to
differ inside a node, the node is split.

A running request publishes a block whenever one fills. As long as it alone holds the last node of its
path and nothing hangs below, that node is *open*: its end follows from the request's progress and is
written down only when somebody looks (``settle``).

Why look-ups never meet a gap: a request releases the end of its sequence first, so for every free copy of
a block there is a copy of its predecessor that is held or stands later in the queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from kvplan.engine.blocks import BlockPool, Segment
from kvplan.engine.content import BlockKey, Content


class Owner(Protocol):
    """Somebody who publishes content and holds what is found; attributes as in ``LiveRequest``."""

    content: Content
    held: list[tuple[Segment, int]]
    tail: Node
    in_tree: int
    published: int

    def published_blocks(self) -> int:
        """Blocks findable now, as of the last ``schedule()``."""
        ...

    def expect_publication(self) -> None:
        """Its open node was closed: the next block that fills has to be published."""
        ...


class Node:
    """Blocks ``start .. end`` (numbered from the beginning of the sequence) after the parent's."""

    __slots__ = ("children", "content", "copies", "end", "key", "owner", "parent", "start")

    def __init__(self, content: Content, start: int, end: int, parent: Node | None, key: BlockKey) -> None:
        self.content = content
        self.start = start
        self.end = end
        self.parent = parent
        self.key = key
        self.children: dict[BlockKey, Node] = {}
        self.copies: list[Segment] = []
        self.owner: Owner | None = None


_EMPTY = Content((), ())


class Match:
    """A look-up's answer: ``blocks`` cached blocks along ``path``; nothing was changed.

    ``unheld`` of them are in the free queue and would leave it. ``open_end``: the match ended where a
    running request's content goes on, so that it may grow without any other event.
    """

    __slots__ = ("blocks", "open_end", "path", "unheld")

    def __init__(self) -> None:
        self.blocks = 0
        self.unheld = 0
        self.path: list[Node] = []
        self.open_end = False


OwnerT = TypeVar("OwnerT", bound=Owner)


class PrefixIndex(Generic[OwnerT]):
    """Prefix cache of one engine with one full-attention group."""

    def __init__(self, block_size: int, pool: BlockPool) -> None:
        self.block_size = block_size
        self.pool = pool
        self.root = Node(_EMPTY, 0, 0, None, 0)
        self.on_gone: Callable[[Content, int, int], None] | None = None
        """Called with content and blocks ``start .. end`` of it whose last copy is evicted."""

    # -- looking ----------------------------------------------------------------------------------------

    def settle(self, node: Node) -> int:
        """The node's end, brought up to date if a running request is still extending it."""
        owner = node.owner
        if owner is not None:
            node.end = owner.published_blocks()
        return node.end

    def match(self, content: Content, limit: int) -> Match:
        """The longest cached prefix of at most ``limit`` blocks."""
        found = Match()
        size = self.block_size
        node = self.root
        depth = 0
        while depth < limit:
            child = node.children.get(content.block_key(depth * size, size))
            if child is None:
                break
            end = child.end if child.owner is None else self.settle(child)
            stop = end if end < limit else limit
            depth = content.agrees_until(child.content, depth * size, stop * size) // size
            found.path.append(child)
            if child.copies[0].ref == 0:
                found.unheld += depth - child.start
            if depth < end:
                break
            if child.owner is not None:
                found.open_end = True
            node = child
        found.blocks = depth
        return found

    # -- holding ----------------------------------------------------------------------------------------

    def hold(self, request: OwnerT, match: Match) -> None:
        """Give the request the first copy of every matched block; they leave the free queue."""
        held = request.held
        pool = self.pool
        last: Segment | None = None
        for node in match.path:
            if node.end > match.blocks:
                node = self.split(node, match.blocks - node.start)
            elif node.owner is not None:
                self.close(node)
            segment = node.copies[0]
            if segment.ref == 0:
                pool.remove(segment, node.end - node.start)
            segment.ref += 1
            if last is not None and segment.above is last:
                held[-1] = (segment, held[-1][1])
            else:
                held.append((segment, node.start))
            last = segment
            request.tail = node
        request.in_tree = request.published = match.blocks

    def close(self, node: Node) -> None:
        """End an open node where it stands: its owner publishes its next block as a node of its own."""
        self.settle(node)
        owner = node.owner
        assert owner is not None
        node.owner = None
        owner.in_tree = node.end
        owner.expect_publication()

    def split(self, node: Node, keep: int) -> Node:
        """Cut a node after ``keep`` blocks; returns the new upper part, ``node`` stays the lower one."""
        cut = node.start + keep
        parent = node.parent
        assert parent is not None
        upper = Node(node.content, node.start, cut, parent, node.key)
        parent.children[node.key] = upper
        node.parent = upper
        node.start = cut
        node.key = node.content.block_key(cut * self.block_size, self.block_size)
        upper.children[node.key] = node
        for segment in node.copies:
            top = segment.earlier(upper)
            upper.copies.append(top)
            if segment.ref == 0:
                self.pool.insert_after(top, segment)
        return upper

    # -- publishing -------------------------------------------------------------------------------------

    def publish(self, request: OwnerT, blocks: int) -> None:
        """Make the request's first ``blocks`` blocks findable; those of its open node are already."""
        if blocks > request.published:
            request.published = blocks
        tail = request.tail
        if tail.owner is request:
            return
        size = self.block_size
        content = request.content
        while request.in_tree < blocks:
            start = request.in_tree
            key = content.block_key(start * size, size)
            child = tail.children.get(key)
            if child is None:
                child = Node(content, start, blocks, tail, key)
                child.owner = request
                tail.children[key] = child
                request.held.append((self.add_copy(child), start))
                request.tail = child
                request.in_tree = blocks
                return
            end = child.end if child.owner is None else self.settle(child)
            stop = min(end, blocks)
            agreed = content.agrees_until(child.content, start * size, stop * size) // size
            if agreed < end:
                child = self.split(child, agreed - start)
            elif child.owner is not None:
                self.close(child)
            request.held.append((self.add_copy(child), start))
            request.tail = tail = child
            request.in_tree = agreed

    def add_copy(self, node: Node) -> Segment:
        """The publishing request's own blocks of a node, after those that are there."""
        own = Segment(node, 1)
        node.copies.append(own)
        return own

    # -- letting go -------------------------------------------------------------------------------------

    def release(self, request: OwnerT, blocks: int) -> None:
        """Drop all of the request's ``blocks`` blocks, the end of the sequence first."""
        pool = self.pool
        tail = request.tail
        if tail.owner is request:
            self.close(tail)
        pool.blank += blocks - request.in_tree
        for segment, first in reversed(request.held):
            piece = segment
            while True:
                piece.ref -= 1
                node = piece.node
                if piece.ref == 0:
                    pool.append(piece, node.end - node.start)
                if node.start <= first:
                    break
                assert piece.above is not None
                piece = piece.above
        request.held = []
        request.tail = self.root
        request.in_tree = request.published = 0

    def take(self, count: int) -> None:
        """Take blocks from the head of the free queue; published ones are evicted."""
        pool = self.pool
        pool.allocated += count
        short = count - pool.blank
        if short <= 0:
            pool.blank = -short
            return
        pool.blank = 0
        pool.evicted += short
        while short:
            segment = pool.head
            assert segment is not None
            short -= self.evict(segment, short)

    def evict(self, segment: Segment, most: int) -> int:
        """Evict a free segment, or its last ``most`` blocks if it has more; returns how many blocks went."""
        node = segment.node
        length = node.end - node.start
        if most < length:
            self._truncate(segment, node, most)
            return most
        self.pool.remove(segment, length)
        self._drop(segment)
        return length

    def _truncate(self, segment: Segment, node: Node, blocks: int) -> None:
        """Evict the last ``blocks`` blocks of a free segment, which has more."""
        if len(node.copies) > 1 or node.children:
            self.split(node, node.end - node.start - blocks)
            self.pool.remove(segment, blocks)
            self._drop(segment)
            return
        if self.on_gone is not None:
            self.on_gone(node.content, node.end - blocks, node.end)
        node.end -= blocks
        self.pool.cached -= blocks

    def _drop(self, segment: Segment) -> None:
        node = segment.node
        node.copies.remove(segment)
        if not node.copies:
            if self.on_gone is not None:
                self.on_gone(node.content, node.start, node.end)
            assert node.parent is not None
            assert not node.children
            del node.parent.children[node.key]
