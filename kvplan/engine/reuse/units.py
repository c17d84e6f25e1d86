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
from kvplan.engine.content import BlockKey, Content
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

    def _key(self, content: Content, block: int) -> BlockKey:
        return content.block_key(block * self.block_size, self.unit * self.block_size)

    def _agreed(self, one: Content, other: Content, start: int, stop: int) -> int:
        """The last unit's end up to which two contents agree, between two units' beginnings."""
        size = self.block_size
        blocks = one.agrees_until(other, start * size, stop * size) // size
        return blocks - blocks % self.unit

    def settle(self, node: Node) -> int:
        """As the base class, down to a whole unit."""
        end = super().settle(node)
        node.end = end - end % self.unit
        return node.end

    def match(self, content: Content, limit: int) -> Match:
        """The longest cached prefix of whole units and at most ``limit`` blocks."""
        found = Match()
        limit -= limit % self.unit
        node = self.root
        depth = 0
        while depth < limit:
            child = node.children.get(self._key(content, depth))
            if child is None:
                break
            end = self.settle(child)
            depth = self._agreed(content, child.content, depth, min(end, limit))
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

    def split(self, node: Node, keep: int) -> Node:
        """As the base class; the lower part is found by its whole first unit."""
        upper = super().split(node, keep)
        node.key = self._key(node.content, node.start)
        upper.children = {node.key: node}
        return upper

    def publish(self, request: LiveRequest, blocks: int) -> None:
        """Make the whole units among the request's first ``blocks`` blocks findable."""
        if blocks > request.published:
            request.published = blocks
        tail = request.tail
        if tail.owner is request:
            return
        content = request.content
        blocks -= blocks % self.unit
        while request.in_tree < blocks:
            start = request.in_tree
            key = self._key(content, start)
            child = tail.children.get(key)
            if child is None:
                child = Node(content, start, blocks, tail, key)
                child.owner = request
                tail.children[key] = child
                request.held.append((self.add_copy(child), start))
                request.tail = child
                request.in_tree = blocks
                return
            end = self.settle(child)
            agreed = self._agreed(content, child.content, start, min(end, blocks))
            if agreed < end:
                child = self.split(child, agreed - start)
            elif child.owner is not None:
                self.close(child)
            request.held.append((self.add_copy(child), start))
            request.tail = tail = child
            request.in_tree = agreed

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

    def publish(self, request: LiveRequest, blocks: int) -> None:
        """As both base classes: whole units, with the request's priority."""
        self._priority = request.request.priority
        UnitIndex.publish(self, request, blocks)

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
