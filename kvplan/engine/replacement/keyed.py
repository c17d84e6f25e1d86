"""Policies that are a key: of all evictable segments the one with the smallest key loses its last block.

Among equal keys the segment released first goes, the end of a sequence before its beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from kvplan.engine.replacement.order import EvictionOrder
from kvplan.engine.replacement.policy import REPLACEMENT, Replacement, Surroundings
from kvplan.engine.replacement.tracked import TrackedSegment

SegmentKey: TypeAlias = Callable[[TrackedSegment], float]
"""Key of a segment's last block, taken when it is offered; it must not change while it stays unreferenced."""

SegmentSpan: TypeAlias = Callable[[TrackedSegment, TrackedSegment | None], int]
"""How many of the last blocks go before the runner-up (``None``: there is none) must be asked; at least 1."""


def _whole(segment: TrackedSegment, runner_up: TrackedSegment | None) -> int:
    return segment.blocks


class KeyedReplacement:
    """``Replacement`` by one key; ``span`` where the key differs within a segment."""

    def __init__(self, surroundings: Surroundings, key: SegmentKey, span: SegmentSpan = _whole) -> None:
        self._order = EvictionOrder(surroundings.pool)
        self._key = key
        self._span = span

    def account(self, segment: TrackedSegment, blocks: int) -> None:
        """Keys do not depend on how much of anything there is."""

    def offer(self, segment: TrackedSegment) -> None:
        """Put it where its key belongs."""
        self._order.put(self._key(segment), segment)

    def choose(self, most: int) -> tuple[TrackedSegment, int]:
        """The smallest key, as far as its blocks share it."""
        segment = self._order.pop()
        assert segment is not None
        blocks = segment.blocks
        if self._span is not _whole:
            blocks = min(blocks, self._span(segment, self._order.first()))
        return segment, min(blocks, most)


@REPLACEMENT.register("lfu")
def least_frequently_used(surroundings: Surroundings) -> Replacement:
    """Fewest uses first. Uses are forgotten with the segment, and never before: old favourites stay."""
    return KeyedReplacement(surroundings, lambda segment: segment.uses)


@REPLACEMENT.register("fifo")
def first_in_first_out(surroundings: Surroundings) -> Replacement:
    """Published first, evicted first, however often it was used since."""
    return KeyedReplacement(surroundings, lambda segment: segment.created)


@REPLACEMENT.register("size-aware")
def size_aware(surroundings: Surroundings) -> Replacement:
    """Smallest uses / size first.

    The size is the number of blocks from the beginning of the sequence to the end of the segment: what a
    request must recompute that asks for all of it and finds nothing. It is taken when the segment becomes
    evictable, so a long path goes as a whole before the prefix below which it hung is judged by its own,
    smaller size.
    """
    return KeyedReplacement(surroundings, lambda segment: segment.uses / segment.node.end)


@REPLACEMENT.register("priority")
def least_urgent(surroundings: Surroundings) -> Replacement:
    """Least urgent first (the highest priority number), then least recently used.

    A segment is as urgent as the most urgent request that used it.
    """
    return KeyedReplacement(surroundings, lambda segment: -segment.priority)


STEP_TOKENS = 512
"""How finely tail-first tells depths apart."""


@REPLACEMENT.register("tail-first")
def deepest_first(surroundings: Surroundings) -> Replacement:
    """The blocks farthest from the beginning of their sequence first, whoever used them.

    Depth is counted in steps of ``STEP_TOKENS`` (at least a block): the paths that reach the deepest step
    lose their blocks in it, the one released first before the others.
    """
    step = max(1, STEP_TOKENS // surroundings.block_size)

    def key(segment: TrackedSegment) -> float:
        return -((segment.node.end - 1) // step)

    def span(segment: TrackedSegment, runner_up: TrackedSegment | None) -> int:
        deepest = (segment.node.end - 1) // step
        next_deepest = 0 if runner_up is None else (runner_up.node.end - 1) // step
        return segment.node.end - step * min(deepest, next_deepest + 1)

    return KeyedReplacement(surroundings, key, span)
