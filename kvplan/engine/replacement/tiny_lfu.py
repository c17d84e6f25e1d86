"""W-TinyLFU (Einziger, Friedman and Manes, 2017): newcomers must have been asked for more often."""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.engine.replacement.order import EvictionOrder
from kvplan.engine.replacement.policy import REPLACEMENT, Surroundings
from kvplan.engine.replacement.sketch import FrequencySketch
from kvplan.engine.replacement.slru import PROTECTED_SHARE, move
from kvplan.engine.replacement.tracked import TrackedSegment

PROBATION, PROTECTED, WINDOW = 0, 1, 2

WINDOW_SHARE = 0.01
"""Part of the unreferenced cached blocks that newcomers may hold without a contest."""

GROUP_TOKENS = 512
"""The sketch counts the first block of every so many tokens of a sequence."""


@REPLACEMENT.register("w-tinylfu")
class WindowTinyLfu:
    """A small LRU window in front of a segmented LRU, and a contest at the door between them.

    When the window is too large its oldest segment meets the one the main part would evict; the one whose
    content was asked for less often lately goes. How often, a sketch remembers, also of what is no longer
    cached: each request counts once, when it lets go, for each group of ``GROUP_TOKENS`` in its sequence.
    A segment is judged by the group in which its last block lies.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        pool = surroundings.pool
        self._pool = pool
        self._block_size = surroundings.block_size
        self._group = max(1, GROUP_TOKENS // surroundings.block_size)
        self._sketch = FrequencySketch(pool.usable // self._group)
        self._blocks = [0, 0, 0]
        self._orders = (EvictionOrder(pool), EvictionOrder(pool), EvictionOrder(pool))

    def account(self, segment: TrackedSegment, blocks: int) -> None:
        """Count its uses; a newcomer enters the window, a segment that proved itself is protected."""
        if blocks > 0:
            uses = segment.uses - segment.seen
            if not segment.seen:
                segment.part = WINDOW
            elif uses and segment.part == PROBATION:
                segment.part = PROTECTED
            if uses:
                add = self._sketch.add
                for print_ in self._prints(segment):
                    add(print_, uses)
            segment.seen = segment.uses
            segment.queued = segment.released
        self._blocks[segment.part] += blocks

    def offer(self, segment: TrackedSegment) -> None:
        """By age, in its queue."""
        self._orders[segment.part].put(segment.queued, segment)

    def choose(self, most: int) -> tuple[TrackedSegment, int]:
        """The loser of the contest, or without one the oldest on probation."""
        probation, protected, window = self._orders
        self._demote()
        victim = probation.first() or protected.first()
        while self._blocks[WINDOW] > WINDOW_SHARE * self._pool.cached:
            candidate = window.first()
            if candidate is None:
                break  # all of it is waiting for what hangs below
            if victim is not None and self._asked(candidate) <= self._asked(victim):
                victim = candidate
                break
            self._to_probation(candidate)
            if victim is not None:
                break
            # As long as the main part has nothing to lose, the window fills it without a contest.
        victim = victim or probation.first() or window.first()
        assert victim is not None
        self._orders[victim.part].pop()
        return victim, min(victim.blocks, most)

    def _demote(self) -> None:
        protected = self._orders[PROTECTED]
        share = PROTECTED_SHARE * (self._pool.cached - self._blocks[WINDOW])
        while self._blocks[PROTECTED] > share:
            segment = protected.first()
            if segment is None:
                return
            self._to_probation(segment)

    def _to_probation(self, segment: TrackedSegment) -> None:
        self._orders[segment.part].pop()
        self._pool.now += 1
        move(segment, PROBATION, self._blocks, self._pool.now)
        self._orders[PROBATION].put(segment.queued, segment)

    def _prints(self, segment: TrackedSegment) -> Iterator[int]:
        node = segment.node
        first = -(-node.start // self._group) * self._group
        for block in range(first, node.end, self._group):
            yield node.content.fingerprint((block + 1) * self._block_size)

    def _asked(self, segment: TrackedSegment) -> int:
        node = segment.node
        block = (node.end - 1) // self._group * self._group
        return self._sketch.estimate(node.content.fingerprint((block + 1) * self._block_size))
