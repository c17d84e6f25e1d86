"""A prefix index that knows whole units of several blocks only.

Caches outside the engine store and find the KV cache in units larger than its blocks (chunks of 256 tokens
in LMCache, blocks of 512 in Mooncake's traces). Here a unit is the smallest thing that is published, found
and evicted; what a request computed beyond its last whole unit is free and forgotten when it ends. Memory
is still given out in blocks. All positions in the tree are multiples of a unit; with units of one block it
is the plain index.
"""

from __future__ import annotations

from heapq import heappush

from kvplan.engine.blocks import BlockPool
from kvplan.engine.content import Content
from kvplan.engine.live import LiveRequest
from kvplan.engine.prefix_hash import PrefixIndex
from kvplan.engine.prefix_node import Match, Node
from kvplan.engine.replacement.index import RankedIndex
from kvplan.engine.replacement.pool import RankedPool
from kvplan.engine.steady import PUBLISH, SteadyDecodes


class UnitIndex(PrefixIndex[LiveRequest]):
    """``PrefixIndex`` in units of ``unit`` blocks.

    Attributes:
        unfinished: full blocks that were given back without content, because their unit was not full.
    """

    def __init__(self, block_size: int, pool: BlockPool, unit: int) -> None:
        super().__init__(block_size, pool)
        self.unit = unit
        self.unfinished = 0

    def settle(self, node: Node) -> int:
        """As the base class, down to a whole unit."""
        end = super().settle(node)
        node.end = end - end % self.unit
        return node.end

    def match(self, content: Content, limit: int) -> Match:
        """The longest cached prefix of whole units and at most ``limit`` blocks."""
        return super().match(content, limit - limit % self.unit)

    def _hand_up(self, request: LiveRequest, node: Node, child: Node, end: int) -> bool:
        """Never: what is computed again leaves a node a unit, and units are few."""
        return False

    def release(self, request: LiveRequest, blocks: int) -> None:
        """As the base class; counts what is lost with unfinished units."""
        if request.tail.owner is request:
            self.close(request.tail)
        self.unfinished += max(0, request.published_blocks() - request.in_tree)
        super().release(request, blocks)

    def take(self, count: int) -> None:
        """Take blocks; where content must go, whole units go, and what is left of the last one is blank."""
        pool = self.pool
        surplus = -(count - pool.blank) % self.unit if count > pool.blank else 0
        super().take(count + surplus)
        pool.blank += surplus
        pool.allocated -= surplus


class RankedUnitIndex(UnitIndex, RankedIndex):
    """``UnitIndex`` under a replacement policy."""

    def __init__(self, block_size: int, pool: RankedPool, name: str, unit: int) -> None:
        RankedIndex.__init__(self, block_size, pool, name, None)
        self.unit = unit
        self.unfinished = 0

    def take(self, count: int) -> None:
        """Take blocks without content first, then whole units of the segments the policy chooses."""
        pool = self.ranked
        pool.allocated += count
        if count <= pool.blank:
            pool.blank -= count
            return
        missing = count - pool.blank
        short = missing + -missing % self.unit
        pool.blank = short - missing
        pool.evicted += short
        while short:
            segment, blocks = pool.policy.choose(short)
            blocks += -blocks % self.unit
            self._evict(segment, blocks)
            short -= blocks


def unit_index(eviction: str, block_size: int, usable: int, unit: int) -> UnitIndex:
    """The index of an engine with ``usable`` blocks, and in it the pool.

    Raises:
        UnknownName: no such eviction policy.
    """
    if eviction == "lru":
        return UnitIndex(block_size, BlockPool(usable), unit)
    from kvplan.engine.replacement.catalog import ensure_known

    ensure_known(eviction)
    return RankedUnitIndex(block_size, RankedPool(usable), eviction, unit)


class UnitSteady(SteadyDecodes):
    """``SteadyDecodes`` whose requests publish a unit at a time."""

    __slots__ = ("unit",)

    def __init__(self, block_size: int, unit: int) -> None:
        super().__init__(block_size)
        self.unit = unit

    def expect_publication(self, request: LiveRequest) -> None:
        """Put the step in which the request's next unit can fill into the calendar."""
        missing = (request.in_tree + self.unit) * self.block_size - request.base
        due = missing if missing > self.tick else self.tick + 1
        heappush(self._calendar, (due, PUBLISH, request.order, request))
