"""The block pool: what is free, and in which order it will be taken.

Which physical block a request gets never decides anything; the order in which *contents* leave the cache
does. vLLM's free queue always has the same shape: blocks without content first (they are put at its head),
then published blocks nobody references, oldest release first. The first part is therefore a number,
``blank``, and the second a linked list of *segments*: runs of published blocks of one node of the prefix
index, held by the same requests. A segment stands in the queue last block first, as blocks are released.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvplan.engine.prefix_node import Node


class Segment:
    """Published blocks that one request computed for the positions of one node.

    Attributes:
        node: where in the prefix index; the segment has exactly the node's blocks.
        ref: requests that hold these blocks.
        above: the earlier blocks of the same run, after a split: whoever holds this segment and was there
            before the split holds them too.
        below: the later blocks of the same run, after a split, as long as it is there and the same requests
            hold both (so that both stand side by side in the free queue while nobody does).
        before, after: neighbours in the free queue while ``ref`` is 0.
    """

    __slots__ = ("above", "after", "before", "below", "node", "ref")

    def __init__(self, node: Node, ref: int) -> None:
        self.node = node
        self.ref = ref
        self.above: Segment | None = None
        self.below: Segment | None = None
        self.before: Segment | None = None
        self.after: Segment | None = None

    def earlier(self, node: Node) -> Segment:
        """Its first blocks, which a split moves to ``node``; what is left here comes after them."""
        top = Segment(node, self.ref)
        above = top.above = self.above
        if above is not None and above.below is self:
            above.below = top
        top.below = self
        self.above = top
        return top


class BlockPool:
    """Free blocks of one engine. ``free == blank + cached``; the rest is referenced."""

    __slots__ = ("allocated", "blank", "cached", "evicted", "head", "tail", "usable")

    def __init__(self, usable: int) -> None:
        self.usable = usable
        self.blank = usable
        self.cached = 0
        self.evicted = 0
        self.allocated = 0
        self.head: Segment | None = None
        self.tail: Segment | None = None

    def append(self, segment: Segment, blocks: int) -> None:
        """A segment lost its last holder: it goes to the tail of the queue."""
        last = self.tail
        segment.before = last
        segment.after = None
        if last is None:
            self.head = segment
        else:
            last.after = segment
        self.tail = segment
        self.cached += blocks

    def insert_after(self, segment: Segment, where: Segment) -> None:
        """The upper half of a segment that was split while in the queue: taken after the lower half."""
        following = where.after
        segment.before = where
        segment.after = following
        where.after = segment
        if following is None:
            self.tail = segment
        else:
            following.before = segment

    def remove(self, segment: Segment, blocks: int) -> None:
        """A segment got a holder again, or was evicted."""
        before, after = segment.before, segment.after
        if before is None:
            self.head = after
        else:
            before.after = after
        if after is None:
            self.tail = before
        else:
            after.before = before
        segment.before = segment.after = None
        self.cached -= blocks
