"""Groups that look at the end of a sequence only: few blocks a request, and fewer published.

What is unpublished and held by one request is a number; a published block is an object (``CachedBlock``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.hybrid.group import Group, Hit
from kvplan.engine.hybrid.pool import CachedBlock, Key, SharedPool
from kvplan.engine.hybrid.request import PrefixNames
from kvplan.engine.retention import retained_blocks

if TYPE_CHECKING:
    from kvplan.engine.hybrid.request import HybridRequest


class SparseHolding:
    """A block table of which only the end is left.

    Attributes:
        length: entries, those that were given back or never taken included.
        dropped: entries at the front that are dealt with: nothing is held there.
        own: blocks held that are not published.
        published: blocks held that are, by entry.
        seen: entries that publication has dealt with.
        standing: entries of a state group in which a block stands.
    """

    __slots__ = ("dropped", "length", "own", "published", "seen", "standing")

    def __init__(self) -> None:
        self.length = self.dropped = self.own = self.seen = 0
        self.published: dict[int, CachedBlock] = {}
        self.standing: set[int] = set()


class SparseGroup(Group):
    """What window and state groups have in common.

    Args:
        index: of the group in the configuration.
        place: of its holding among those of a request.
    """

    def __init__(
        self,
        index: int,
        place: int,
        group: CacheGroup,
        config: EngineConfig,
        pool: SharedPool,
        names: PrefixNames,
    ) -> None:
        self.index = index
        self.place = place
        self.group = group
        self.config = config
        self.block_size = group.block_size
        self.pool = pool
        self._names = names
        self._alignment = config.hit_alignment
        self._cap = group.admission_cap(config.max_in_flight_tokens, config.max_model_len)

    def enter(self, request: HybridRequest) -> None:
        """A request is new: it has nothing."""
        request.sparse.append(SparseHolding())

    def key(self, request: HybridRequest, entry: int) -> Key:
        """What the block is published under: its group and the prefix that ends with it."""
        return (self.index, request.prefix_name(self._names, (entry + 1) * self.block_size))

    def find(self, request: HybridRequest, entry: int) -> CachedBlock | None:
        """The cached block with the tokens of this entry, or ``None``."""
        return self.pool.lookup(self.key(request, entry))

    @property
    def blocks_for_hit(self) -> int:
        """Blocks before the end of a hit that it needs; all it can get where it is shorter."""
        return 1

    def unheld(self, tail: Sequence[CachedBlock]) -> int:
        """How many of the blocks are free, although cached."""
        return sum(1 for block in tail if block.ref == 0)

    def adopt(self, request: HybridRequest, hit: Hit) -> None:
        """Hold the blocks found; those before them are not needed."""
        holding, tail = request.sparse[self.place], hit.tails[self.place]
        length = hit.tokens // self.block_size
        first = length - len(tail)
        for block in tail:
            self.pool.hold(block)
        holding.published = dict(enumerate(tail, first))
        holding.length = holding.seen = length
        holding.dropped = first

    def give_back(self, holding: SparseHolding, entries: int, stop: int) -> None:
        """Let go of ``entries`` held entries before ``stop``, the last one first."""
        for entry in sorted((e for e in holding.published if e < stop), reverse=True):
            self.pool.let_go(holding.published.pop(entry))
            entries -= 1
        holding.own -= entries
        self.pool.blank += entries

    def settled_until(self, request: HybridRequest, processed: int) -> int:
        """As far as the blocks reach, or until the next one is out of reach."""
        return min(request.sparse[self.place].length * self.block_size, self.next_drop(processed))

    def next_drop(self, processed: int) -> int:
        """The smallest number of processed tokens at which one more block is out of reach."""
        raise NotImplementedError

    def publish(self, request: HybridRequest, tokens: int) -> bool:
        """Those full blocks that are worth it; the others never will be."""
        holding = request.sparse[self.place]
        start, stop = holding.seen, tokens // self.block_size
        if start >= stop:
            return False
        holding.seen = stop
        news = False
        for entry in self.retained(request, start, stop):
            if self.holds(holding, entry):
                holding.published[entry] = self.publish_block(self.key(request, entry))
                holding.own -= 1
                news = True
        return news

    def holds(self, holding: SparseHolding, entry: int) -> bool:
        """Whether a block stands in this entry of the table."""
        return entry >= holding.dropped

    def publish_block(self, key: Key) -> CachedBlock:
        """Make one block findable."""
        return self.pool.publish(key)

    def retained(self, request: HybridRequest, start: int, stop: int) -> Sequence[int]:
        """Which of the full blocks ``start .. stop`` are to be published."""
        return retained_blocks(
            start,
            stop,
            needed=self.blocks_for_hit,
            block_size=self.block_size,
            alignment=self._alignment,
            interval=self.config.retention_interval,
            boundaries=(request.prompt_tokens - 1, request.shared_prefix_boundary),
        )

    def release(self, request: HybridRequest) -> None:
        """Give everything back."""
        holding = request.sparse[self.place]
        self.give_back(holding, holding.own + len(holding.published), holding.length)
        holding.length = holding.dropped = holding.seen = 0
