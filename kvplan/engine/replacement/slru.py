"""Segmented LRU: what was used once cannot push out what was used again (Karedla et al., 1994)."""

from __future__ import annotations

from kvplan.engine.replacement.order import EvictionOrder
from kvplan.engine.replacement.policy import REPLACEMENT, Surroundings
from kvplan.engine.replacement.tracked import TrackedSegment

PROBATION, PROTECTED = 0, 1

PROTECTED_SHARE = 0.8
"""Part of the unreferenced cached blocks that may be protected."""


@REPLACEMENT.register("slru")
class SegmentedLru:
    """Two LRU queues. A segment enters on probation and is protected once it is used again.

    Eviction takes from probation. When the protected blocks are more than their share, the least recently
    used of them go back to the young end of probation. Referenced blocks are in neither queue.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._pool = surroundings.pool
        self._blocks = [0, 0]
        self._orders = (EvictionOrder(surroundings.pool), EvictionOrder(surroundings.pool))

    def account(self, segment: TrackedSegment, blocks: int) -> None:
        """A released segment is as old as its release; one that was used again is protected."""
        if blocks > 0:
            if segment.uses > max(1, segment.seen):
                segment.part = PROTECTED
            segment.seen = segment.uses
            segment.queued = segment.released
        self._blocks[segment.part] += blocks

    def offer(self, segment: TrackedSegment) -> None:
        """By age, in its queue."""
        self._orders[segment.part].put(segment.queued, segment)

    def choose(self, most: int) -> tuple[TrackedSegment, int]:
        """The oldest on probation, after what is no longer protected was added to it."""
        probation, protected = self._orders
        self._demote()
        segment = probation.pop() or protected.pop()
        assert segment is not None
        return segment, min(segment.blocks, most)

    def _demote(self) -> None:
        probation, protected = self._orders
        share = PROTECTED_SHARE * self._pool.cached
        while self._blocks[PROTECTED] > share:
            segment = protected.pop()
            if segment is None:
                return  # all of it is waiting for what hangs below
            move(segment, PROBATION, self._blocks, self._pool.now)
            probation.put(segment.queued, segment)


def move(segment: TrackedSegment, part: int, blocks: list[int], now: int) -> None:
    """Put an unreferenced segment at the young end of another queue, whose sizes are ``blocks``."""
    length = segment.blocks
    blocks[segment.part] -= length
    blocks[part] += length
    segment.part = part
    segment.queued = now
