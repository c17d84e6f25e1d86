"""Pool accounting when a policy, not a queue, says which block goes next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.blocks import BlockPool, Segment
from kvplan.engine.replacement.tracked import TrackedSegment

if TYPE_CHECKING:
    from kvplan.engine.replacement.policy import Replacement


class RankedPool(BlockPool):
    """Free blocks of one engine; unreferenced segments are the policy's to order.

    Attributes:
        policy: set once, by the index.
        now: counts releases, admissions and publications.
        segments: unreferenced segments; tickets: entries ever made in an order.
    """

    __slots__ = ("now", "policy", "segments", "tickets")

    policy: Replacement

    def __init__(self, usable: int) -> None:
        super().__init__(usable)
        self.now = 0
        self.segments = 0
        self.tickets = 0

    def append(self, segment: Segment, blocks: int) -> None:
        """A segment lost its last holder."""
        assert isinstance(segment, TrackedSegment)
        self.now = segment.released = self.now + 1
        self.cached += blocks
        self.segments += 1
        self.policy.account(segment, blocks)
        if segment.evictable:
            self.policy.offer(segment)

    def insert_after(self, segment: Segment, where: Segment) -> None:
        """The upper half of an unreferenced segment that was split: no block changed its state."""
        self.segments += 1

    def remove(self, segment: Segment, blocks: int) -> None:
        """A segment got a holder again, or was evicted."""
        assert isinstance(segment, TrackedSegment)
        segment.ticket = 0
        self.cached -= blocks
        self.segments -= 1
        self.policy.account(segment, -blocks)

    def truncate(self, segment: TrackedSegment, blocks: int) -> None:
        """The last blocks of an unreferenced segment were evicted."""
        self.cached -= blocks
        self.policy.account(segment, -blocks)
