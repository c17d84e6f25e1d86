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

from bisect import bisect_right
from collections.abc import Callable
from typing import Generic, TypeVar

from kvplan.engine.blocks import BlockPool, Segment
from kvplan.engine.content import BlockKey, Content
from kvplan.engine.prefix_node import Match, Node, Owner

_EMPTY = Content((), ())

OwnerT = TypeVar("OwnerT", bound=Owner)


class PrefixIndex(Generic[OwnerT]):
    """Prefix cache of one engine with one full-attention group.

    Attributes:
        unit: blocks that are found and published together: 1, or more where caches know larger units only
            (``engine.reuse.units``). Every node begins and ends with a unit.
    """

    unit = 1

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
        return self.match_from(self.root, content, limit)

    def match_from(self, node: Node, content: Content, limit: int) -> Match:
        """The longest cached run after a node that the content agrees with, up to block ``limit``."""
        found = Match()
        size, unit = self.block_size, self.unit
        span = size * unit
        depth = node.end
        ends, shifts = content.ends, content.shifts
        run = bisect_right(ends, depth * size) if depth else 0
        while depth < limit:
            position = depth * size
            while ends[run] <= position:
                run += 1
            whole = ends[run] >= position + span
            child = node.children.get(shifts[run] if whole else content.block_key(position, span))
            if child is None:
                break
            end = child.end if child.owner is None else self.settle(child)
            stop = end if end < limit else limit
            depth = content.agrees_on(child.content, run, stop * size) // span * unit
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
            above = segment.above
            if last is not None and above is last:
                held[-1] = (segment, held[-1][1])
            else:
                held.append((segment, node.start))
                if last is not None:
                    last.below = None
                if above is not None:
                    above.below = None
            last = segment
            request.tail = node
        if last is not None:
            last.below = None
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
        node.key = self._key(node.content, cut)
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
        size, unit = self.block_size, self.unit
        span = size * unit
        blocks -= blocks % unit
        content = request.content
        while request.in_tree < blocks:
            start = request.in_tree
            key = content.block_key(start * size, span)
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
            agreed = content.agrees_until(child.content, start * size, stop * size) // span * unit
            if agreed < end:
                if self._hand_up(request, tail, child, agreed):
                    continue
                child = self.split(child, agreed - start)
            elif child.owner is not None:
                self.close(child)
            request.held.append((self.add_copy(child), start))
            request.tail = tail = child
            request.in_tree = agreed

    def finish(self, request: OwnerT) -> None:
        """The request publishes no more: its open node ends where it does."""
        tail = request.tail
        if tail.owner is request:
            tail.owner = None
            tail.end = request.in_tree = request.published_blocks()

    def _hand_up(self, request: OwnerT, node: Node, child: Node, end: int) -> bool:
        """Publish up to ``end``, within the child, by letting the request's last node end so much later.

        This is possible where all other copies go on below, in the same hands, as they do once a split has
        let this request in: what is computed again block by block leaves two nodes, not one a block.
        """
        own = node.copies[-1] if node.copies else None
        if own is None or own.ref != 1 or request.held[-1][0] is not own or not _go_on(node, own):
            return False
        # Whose content the node was known by may be gone, and may go on otherwise than these blocks.
        node.content = child.content
        node.end = request.in_tree = end
        self._begin(child, end)
        return True

    def _begin(self, child: Node, block: int) -> None:
        """Let the only child of its parent begin where the parent now ends."""
        parent = child.parent
        assert parent is not None
        child.start = block
        child.key = self._key(child.content, block)
        parent.children = {child.key: child}

    def _key(self, content: Content, block: int) -> BlockKey:
        """What a node is found by that begins at ``block``."""
        return content.block_key(block * self.block_size, self.unit * self.block_size)

    def add_copy(self, node: Node) -> Segment:
        """The publishing request's own blocks of a node, after those that are there."""
        own = Segment(node, 1)
        node.copies.append(own)
        return own

    # -- letting go -------------------------------------------------------------------------------------

    def release(self, request: OwnerT, blocks: int) -> None:
        """Drop all of the request's ``blocks`` blocks, the end of the sequence first."""
        pool = self.pool
        self.finish(request)
        pool.blank += blocks - request.in_tree
        below: Segment | None = None
        for segment, first in reversed(request.held):
            piece = segment
            while True:
                piece.ref -= 1
                node = piece.node
                start = node.start
                if piece.ref == 0 and not (below is not None and self._join(piece, below)):
                    pool.append(piece, node.end - start)
                    below = piece
                if start <= first:
                    break
                assert piece.above is not None
                piece = piece.above
        request.held = []
        request.tail = self.root
        request.in_tree = request.published = 0

    def _join(self, piece: Segment, below: Segment) -> bool:
        """Let the segment that was released last begin where ``piece`` does, if nothing tells them apart.

        Then nobody holds them and nothing else hangs between them: they stand in the queue as one.
        """
        node = piece.node
        if below.node.parent is not node or not self._alone(node, below):
            return False
        self.pool.cached += node.end - node.start
        self._absorb(piece, below)
        return True

    def _alone(self, node: Node, below: Segment) -> bool:
        """Whether one copy of a node goes on with one copy of its only child, which is ``below``.

        Never so where somebody hears of evictions: they are told as blocks were published.
        """
        copies = below.node.copies
        return (
            len(node.children) == len(node.copies) == len(copies) == 1
            and copies[0] is below
            and self.on_gone is None
        )

    def _absorb(self, piece: Segment, below: Segment) -> None:
        """Make one node of two, the lower one; whoever holds ``piece`` holds ``below`` and comes that way."""
        node, lower = piece.node, below.node
        node.copies = []
        lower.start, lower.key, lower.parent = node.start, node.key, node.parent
        assert lower.parent is not None
        lower.parent.children[lower.key] = lower
        above = below.above = piece.above
        if above is not None and above.below is piece:
            above.below = below

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
        if most >= length:
            self.pool.remove(segment, length)
            self._drop(segment)
            return length
        if len(node.copies) == 1 and not node.children:
            if self.on_gone is not None:
                self.on_gone(node.content, node.end - most, node.end)
            node.end -= most
            self.pool.cached -= most
        elif not self._hand_down(segment, node, most):
            self.split(node, length - most)
            self.pool.remove(segment, most)
            self._drop(segment)
        return most

    def _hand_down(self, segment: Segment, node: Node, blocks: int) -> bool:
        """Evict the last ``blocks`` blocks of one copy by letting the node below begin so much earlier.

        The counterpart of ``_hand_up``: a copy that goes block by block leaves two nodes, not one a block.
        """
        if not _go_on(node, segment):
            return False
        node.end -= blocks
        self._begin(next(iter(node.children.values())), node.end)
        self.pool.cached -= blocks
        return True

    def _drop(self, segment: Segment) -> None:
        node = segment.node
        node.copies.remove(segment)
        segment.above = None  # what is gone holds nothing, and so is gone at once
        if not node.copies:
            if self.on_gone is not None:
                self.on_gone(node.content, node.start, node.end)
            assert node.parent is not None
            assert not node.children
            del node.parent.children[node.key]
        elif node.children:
            (piece, *_), pool = node.copies, self.pool
            below = piece.below
            if below is not None and below.node.parent is node and self._alone(node, below):
                if piece.ref == 0:
                    blocks = node.end - node.start
                    pool.remove(piece, blocks)
                    pool.cached += blocks
                self._absorb(piece, below)


def _go_on(node: Node, one: Segment) -> bool:
    """Whether all copies but ``one`` go on in the only child, held by whoever holds them here."""
    if len(node.children) != 1:
        return False
    (child,) = node.children.values()
    others = len(node.copies) - 1
    return len(child.copies) == others and all(
        copy.below in child.copies for copy in node.copies if copy is not one
    )
