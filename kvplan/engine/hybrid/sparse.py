"""Groups that look at the end of a sequence only: few blocks a request, and fewer published.

What is unpublished and held by one request is a number; a published block is an object (``CachedBlock``).
Groups of one specification that follow each other always hold the same entries: they share one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.hybrid.group import Entry, Group, Hit, Tail
from kvplan.engine.hybrid.pool import CachedBlock, Published, SharedPool
from kvplan.engine.retention import retained_blocks

if TYPE_CHECKING:
    from kvplan.engine.hybrid.request import HybridRequest


class SparseHolding:
    """A block table of which only the end is left.

    Attributes:
        length: entries, those that were given back or never taken included.
        dropped: entries at the front that are dealt with: nothing is held there.
        own: entries held that are not published.
        published: entries held that are, in rising order.
        seen: entries that publication has dealt with.
        standing: entries of a state group in which blocks stand.
    """

    __slots__ = ("dropped", "length", "own", "published", "seen", "standing")

    def __init__(self) -> None:
        self.length = self.dropped = self.own = self.seen = 0
        self.published: dict[int, Entry] = {}
        self.standing: set[int] = set()


class SparseGroup(Group):
    """What window and state groups have in common.

    Args:
        place: of its holding among those of a request.
        width: groups that share the table.

    Attributes:
        behind: computed tokens that the next one looks at.
    """

    def __init__(
        self,
        place: int,
        width: int,
        group: CacheGroup,
        config: EngineConfig,
        pool: SharedPool,
    ) -> None:
        self.place = place
        self.width = self.pace = width
        self.group = group
        self.config = config
        self.block_size = group.block_size
        self.window = group.window
        self.behind = group.window - 1
        self.pool = pool
        self._alignment = config.hit_alignment
        self._tables: list[Published] = [{} for _ in range(width)]
        self._cap = group.admission_cap(config.max_in_flight_tokens, config.max_model_len)

    def enter(self, request: HybridRequest) -> None:
        """A request is new: it has nothing."""
        request.sparse.append(SparseHolding())

    def find(self, name: int) -> Entry | None:
        """The blocks cached under this name, if every group has one."""
        if self.width == 1:
            block = self._tables[0].get(name)
            return None if block is None else (block,)
        found = []
        for table in self._tables:
            block = table.get(name)
            if block is None:
                return None
            found.append(block)
        return tuple(found)

    @property
    def blocks_for_hit(self) -> int:
        """Blocks before the end of a hit that it needs; all it can get where it is shorter."""
        return 1

    def unheld(self, tail: Tail) -> int:
        """How many of the blocks are free, although cached."""
        return sum(1 for entry in tail for block in entry if block.ref == 0)

    def stands(self, request: HybridRequest, hit: Hit) -> bool:
        """As the base class; whoever lets go of a block frees as much as it leaves unheld."""
        return all(block.first for entry in hit.tails[self.place] for block in entry)

    def adopt(self, request: HybridRequest, hit: Hit) -> None:
        """Hold the blocks found; those before them are not needed."""
        holding, tail = request.sparse[self.place], hit.tails[self.place]
        length = hit.tokens // self.block_size
        first = length - len(tail)
        hold = self.pool.hold
        for entry in tail:
            for block in entry:
                hold(block)
        holding.published = dict(enumerate(tail, first))
        holding.length = holding.seen = length
        holding.dropped = first

    def give_back(self, holding: SparseHolding, entries: int, stop: int) -> int:
        """Let go of ``entries`` held entries before ``stop``, the last one first; returns the blocks."""
        published = holding.published
        unpublished = entries
        if published:
            going = list(takewhile(stop.__gt__, published))
            going.reverse()
            let_go = self.pool.let_go
            for member in range(self.width):
                for place in going:
                    let_go(published[place][member])
            for place in going:
                del published[place]
            unpublished -= len(going)
        holding.own -= unpublished
        self.pool.blank += unpublished * self.width
        return entries * self.width

    def let_go(self, holding: SparseHolding, place: int) -> None:
        """Let go of one published entry."""
        for block in holding.published.pop(place):
            self.pool.let_go(block)

    def settled_until(self, request: HybridRequest, processed: int) -> int:
        """As far as the blocks reach, or until the next one is out of reach."""
        return min(request.sparse[self.place].length * self.block_size, self.next_drop(processed))

    def skipped_tokens(self, computed: int) -> int:
        """Tokens at the front that no token after the first ``computed`` ones looks at."""
        return max(0, computed - self.behind)

    def next_drop(self, processed: int) -> int:
        """The smallest number of processed tokens at which one more block is out of reach."""
        blocks = self.skipped_tokens(processed) // self.block_size
        return (blocks + 1) * self.block_size + self.behind

    def keeps_step(self, request: HybridRequest, computed: int, processed: int) -> bool:
        """As the base class."""
        holding, size = request.sparse[self.place], self.block_size
        dropped = self.skipped_tokens(processed) // size
        return holding.length == -(-computed // size) and holding.dropped == dropped

    def write_down(self, request: HybridRequest, computed: int, processed: int) -> None:
        """As the base class."""
        holding, size = request.sparse[self.place], self.block_size
        holding.length = -(-computed // size)
        holding.dropped = self.skipped_tokens(processed) // size
        holding.own = holding.length - holding.dropped - len(holding.published)

    def publish(self, request: HybridRequest, tokens: int) -> bool:
        """Those full blocks that are worth it; the others never will be."""
        holding = request.sparse[self.place]
        start, stop = holding.seen, tokens // self.block_size
        if start >= stop:
            return False
        holding.seen = stop
        places = [place for place in self.retained(request, start, stop) if self.holds(holding, place)]
        if not places:
            return False
        size, fingerprint = self.block_size, request.content.fingerprint
        names = [fingerprint((place + 1) * size) for place in places]
        self.note(names)
        tables, published = self._tables, holding.published
        for place, name in zip(places, names, strict=True):
            published[place] = tuple([CachedBlock(table, name) for table in tables])
        holding.own -= len(places)
        return True

    def publishes(self, request: HybridRequest, progress: int) -> bool:
        """Always, or as long as a boundary lies ahead."""
        return self.config.retention_interval != 0 or progress < max(
            request.prompt_tokens - 1, request.shared_prefix_boundary
        )

    def close(self, request: HybridRequest) -> None:
        """It always is."""

    def note_published(self, request: HybridRequest) -> None:
        """Nothing does."""

    def note(self, names: Sequence[int]) -> None:
        """Blocks with these names are published now."""

    def holds(self, holding: SparseHolding, place: int) -> bool:
        """Whether blocks stand in this entry of the table."""
        return place >= holding.dropped

    def retained(self, request: HybridRequest, start: int, stop: int) -> Sequence[int]:
        """Which of the full blocks ``start .. stop`` are to be published, rising."""
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
