"""S3-FIFO (Yang et al., SOSP 2023): a small queue filters what is used once out of a large one."""

from __future__ import annotations

from collections import OrderedDict

from kvplan.engine.replacement.order import EvictionOrder
from kvplan.engine.replacement.policy import REPLACEMENT, Surroundings
from kvplan.engine.replacement.slru import move
from kvplan.engine.replacement.tracked import TrackedSegment

SMALL, MAIN = 0, 1

SMALL_SHARE = 0.1
"""Part of the unreferenced cached blocks that the small queue may keep."""

MOST_CREDIT = 3
"""The paper's two-bit counter."""


@REPLACEMENT.register("s3-fifo")
class S3Fifo:
    """A small FIFO, a main FIFO, and a ghost queue of what was evicted from the small one.

    The paper's objects are segments here; a segment of blocks whose content is in the ghost queue enters
    the main one. Queues are in order of publication; only evictable segments are looked at, so one that
    has cached blocks behind it keeps its place until they are gone. The ghost queue remembers the first
    block of every eviction (that is where a returning request starts to compute) and weighs it by the
    blocks evicted with it; it weighs at most as much as the pool has blocks.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._pool = surroundings.pool
        self._block_size = surroundings.block_size
        self._blocks = [0, 0]
        self._orders = (EvictionOrder(surroundings.pool), EvictionOrder(surroundings.pool))
        self._ghosts: OrderedDict[int, int] = OrderedDict()
        self._ghost_blocks = 0

    def account(self, segment: TrackedSegment, blocks: int) -> None:
        """At its first release a segment enters a queue; later uses are credit for another round."""
        if blocks > 0:
            if not segment.seen:
                segment.queued = segment.created
                segment.part = MAIN if self._returns(segment) else SMALL
                segment.seen = 1
            segment.credit = min(MOST_CREDIT, segment.credit + segment.uses - segment.seen)
            segment.seen = segment.uses
        self._blocks[segment.part] += blocks

    def offer(self, segment: TrackedSegment) -> None:
        """In the order of its queue."""
        self._orders[segment.part].put(segment.queued, segment)

    def choose(self, most: int) -> tuple[TrackedSegment, int]:
        """The paper's two eviction loops, until something has no credit left."""
        small, main = self._orders
        while True:
            from_small = self._blocks[SMALL] > SMALL_SHARE * self._pool.cached or main.first() is None
            segment = small.pop() if from_small else None
            if segment is not None:
                if segment.credit > 1:
                    segment.credit = 0
                    self._to_main(segment)
                    continue
                blocks = min(segment.blocks, most)
                self._remember(segment, blocks)
                return segment, blocks
            segment = main.pop()
            assert segment is not None
            if not segment.credit:
                return segment, min(segment.blocks, most)
            segment.credit -= 1
            self._to_main(segment)

    def _to_main(self, segment: TrackedSegment) -> None:
        self._pool.now += 1
        move(segment, MAIN, self._blocks, self._pool.now)
        self._orders[MAIN].put(segment.queued, segment)

    def _print(self, segment: TrackedSegment, block: int) -> int:
        return segment.node.content.fingerprint((block + 1) * self._block_size)

    def _returns(self, segment: TrackedSegment) -> bool:
        weight = self._ghosts.pop(self._print(segment, segment.node.start), 0)
        self._ghost_blocks -= weight
        return weight > 0

    def _remember(self, segment: TrackedSegment, blocks: int) -> None:
        node = segment.node
        if len(node.copies) > 1:
            return  # the content stays
        print_ = self._print(segment, node.end - blocks)
        self._ghost_blocks += blocks - self._ghosts.pop(print_, 0)
        self._ghosts[print_] = blocks
        while self._ghost_blocks > self._pool.usable:
            self._ghost_blocks -= self._ghosts.popitem(last=False)[1]
