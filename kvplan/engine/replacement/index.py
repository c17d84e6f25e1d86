"""The prefix index under a replacement policy: the same look-ups and publications, another way to evict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.blocks import Segment
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.prefix_hash import PrefixIndex
from kvplan.engine.prefix_node import Match, Node
from kvplan.engine.replacement.policy import REPLACEMENT, Surroundings
from kvplan.engine.replacement.pool import RankedPool
from kvplan.engine.replacement.tracked import TrackedSegment

if TYPE_CHECKING:
    from kvplan.engine.replacement.foresight import Foresight


class RankedIndex(PrefixIndex[LiveRequest]):
    """``PrefixIndex`` whose unreferenced segments are evicted in the order of a policy.

    Whatever the policy, a block goes only after everything cached behind it, so that look-ups never meet
    a gap.
    """

    def __init__(self, block_size: int, pool: RankedPool, name: str, foresight: Foresight | None) -> None:
        super().__init__(block_size, pool)
        self.ranked = pool
        self.foresight = foresight
        self._priority = 0
        pool.policy = self.policy = REPLACEMENT.get(name)(Surroundings(pool, block_size, foresight))

    def hold(self, request: LiveRequest, match: Match) -> None:
        """As the base class; every segment of the path was used once more."""
        super().hold(request, match)
        if request.status is not Status.WAITING:
            return
        facts = request.request
        if self.foresight is not None:
            self.foresight.admitted(facts.id)
        node = request.tail
        while node.parent is not None:
            segment = node.copies[0]
            assert isinstance(segment, TrackedSegment)
            segment.uses += 1
            if facts.priority < segment.priority:
                segment.priority = facts.priority
            node = node.parent

    def publish(self, request: LiveRequest, blocks: int) -> None:
        """As the base class; new segments carry the request's priority."""
        self._priority = request.request.priority
        super().publish(request, blocks)

    def add_copy(self, node: Node) -> Segment:
        """As the base class; a copy that was the only one may be evicted now, whatever hangs below."""
        pool = self.ranked
        pool.now += 1
        own = TrackedSegment(node, 1, pool.now, self._priority)
        node.copies.append(own)
        if len(node.copies) == 2:
            self._offer_all(node)
        return own

    def split(self, node: Node, keep: int) -> Node:
        """As the base class; unreferenced copies of the upper part may be evictable on their own."""
        upper = super().split(node, keep)
        if len(upper.copies) > 1:
            self._offer_all(upper)
        return upper

    def _join(self, piece: Segment, below: Segment) -> bool:
        """Never: a policy ranks segments one by one."""
        return False

    def take(self, count: int) -> None:
        """Take blocks without content first, then those the policy chooses."""
        pool = self.ranked
        pool.allocated += count
        if count <= pool.blank:
            pool.blank -= count
            return
        short = count - pool.blank
        pool.blank = 0
        pool.evicted += short
        choose = pool.policy.choose
        while short:
            segment, blocks = choose(short)
            self._evict(segment, blocks)
            short -= blocks

    def _evict(self, segment: TrackedSegment, blocks: int) -> None:
        pool = self.ranked
        node = segment.node
        length = node.end - node.start
        if blocks == length:
            pool.remove(segment, blocks)
            self._drop(segment)
        elif len(node.copies) == 1:
            if self.on_gone is not None:
                self.on_gone(node.content, node.end - blocks, node.end)
            node.end -= blocks
            pool.truncate(segment, blocks)
            pool.policy.offer(segment)
        else:
            self.split(node, length - blocks)  # offers the part that stays
            pool.remove(segment, blocks)
            self._drop(segment)

    def _drop(self, segment: Segment) -> None:
        super()._drop(segment)
        parent = segment.node.parent
        assert parent is not None
        if not parent.children:
            self._offer_all(parent)

    def _offer_all(self, node: Node) -> None:
        for segment in node.copies:
            assert isinstance(segment, TrackedSegment)
            if segment.ref == 0 and not segment.ticket:
                self.ranked.policy.offer(segment)
