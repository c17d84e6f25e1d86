"""Groups of full attention (MLA too): every block is kept, in a prefix index of segments each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvplan.engine.blocks import Segment
from kvplan.engine.hybrid.group import Group, Hit
from kvplan.engine.hybrid.pool import SharedPool
from kvplan.engine.prefix_hash import PrefixIndex
from kvplan.engine.prefix_node import Node

if TYPE_CHECKING:
    from kvplan.engine.hybrid.request import HybridRequest


class FullHolding:
    """What a request has in one group, as the group's prefix index wants to see it.

    Attributes:
        blocks: blocks held; the others are those of ``LiveRequest``.
    """

    __slots__ = ("_request", "_unit", "blocks", "content", "held", "in_tree", "published", "tail")

    def __init__(self, request: HybridRequest, root: Node, unit: int) -> None:
        self._request = request
        self._unit = unit
        self.content = request.content
        self.held: list[tuple[Segment, int]] = []
        self.tail = root
        self.blocks = self.in_tree = self.published = 0

    def expect_publication(self) -> None:
        """Its open node was closed: the next block that fills has to be published."""
        if self._request.steady is not None:
            self._request.steady.expect_publication(self._request)

    def published_blocks(self) -> int:
        """Blocks findable now, as of the last ``schedule()``."""
        steady = self._request.steady
        if steady is None:
            return self.published
        tokens = self._request.base + steady.tick - steady.lag
        blocks = tokens // steady.block_size * self._unit
        return blocks if blocks > self.published else self.published


class FullGroup(Group):
    """One group.

    Args:
        place: of its holding among those of a request.
        block_size: tokens a block covers.
        alignment: blocks are published in multiples of so many tokens.
    """

    def __init__(self, place: int, block_size: int, alignment: int, pool: SharedPool) -> None:
        self.place = place
        self.block_size = block_size
        self.pool = pool
        self.unit = alignment // block_size
        self.pace = 1
        self.index: PrefixIndex[FullHolding] = PrefixIndex(block_size, pool)

    @property
    def evict(self) -> Callable[[Segment, int], int]:
        """As ``PrefixIndex.evict``."""
        return self.index.evict

    def enter(self, request: HybridRequest) -> None:
        """A request is new: it has nothing."""
        request.full.append(FullHolding(request, self.index.root, self.unit))

    def need(
        self, request: HybridRequest, covered: int, hit: Hit | None, computed: int, *, admission: bool
    ) -> int:
        """As many as the tokens fill."""
        if hit is None:
            return self.lacks(request, covered)
        match = hit.matches[self.place]
        return max(-(-covered // self.block_size) - match.blocks, 0) + match.unheld

    def lacks(self, request: HybridRequest, covered: int) -> int:
        """As many as the tokens fill."""
        missing = -(-covered // self.block_size) - request.full[self.place].blocks
        return missing if missing > 0 else 0

    def adopt(self, request: HybridRequest, hit: Hit) -> None:
        """Hold what matched."""
        holding, match = request.full[self.place], hit.matches[self.place]
        self.index.hold(holding, match)
        holding.blocks = match.blocks

    def drop(self, request: HybridRequest, processed: int) -> None:
        """Nothing is ever out of reach."""

    def grow(self, request: HybridRequest, covered: int) -> int:
        """As the base class."""
        missing = self.lacks(request, covered)
        request.full[self.place].blocks += missing
        return missing

    def settled_until(self, request: HybridRequest, processed: int) -> int:
        """As far as the blocks reach."""
        return request.full[self.place].blocks * self.block_size

    def keeps_step(self, request: HybridRequest, computed: int, processed: int) -> bool:
        """As the base class."""
        return request.full[self.place].blocks == -(-computed // self.block_size)

    def write_down(self, request: HybridRequest, computed: int, processed: int) -> None:
        """As the base class."""
        request.full[self.place].blocks = -(-computed // self.block_size)

    def publish(self, request: HybridRequest, tokens: int) -> bool:
        """All full blocks; whoever waits for an open node to grow says so (``Hit.open_end``)."""
        holding = request.full[self.place]
        blocks = tokens // self.block_size
        news = blocks > holding.in_tree and holding.tail.owner is not holding
        self.index.publish(holding, blocks)
        return news

    def publishes(self, request: HybridRequest, progress: int) -> bool:
        """As long as no open node grows with the request."""
        holding = request.full[self.place]
        return holding.tail.owner is not holding

    def note_published(self, request: HybridRequest) -> None:
        """As the base class."""
        holding = request.full[self.place]
        holding.published = holding.published_blocks()

    def close(self, request: HybridRequest) -> None:
        """End the node that grows with the request."""
        holding = request.full[self.place]
        if holding.tail.owner is holding:
            self.index.close(holding.tail)

    def release(self, request: HybridRequest) -> None:
        """Give everything back."""
        holding = request.full[self.place]
        self.index.release(holding, holding.blocks)
        holding.blocks = 0
