"""Groups that look at the end of a sequence only: few blocks a request, and fewer published.

What is unpublished and held by one request is a number; what is published lies in strips (``StripIndex``).
Groups of one specification that follow each other always hold the same entries: they share one table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.content import Content
from kvplan.engine.hybrid.group import Group, Hit
from kvplan.engine.hybrid.pieces import Piece, Tail, cut_off
from kvplan.engine.hybrid.pool import SharedPool
from kvplan.engine.hybrid.strip_index import StripIndex
from kvplan.engine.retention import retained_blocks

if TYPE_CHECKING:
    from kvplan.engine.hybrid.request import HybridRequest


class SparseHolding:
    """A block table of which only the end is left.

    Attributes:
        length: entries, those that were given back or never taken included.
        dropped: entries at the front that are dealt with: nothing is held there.
        own: entries held that are not published.
        published: entries held that are.
        pieces: where these lie, in rising order.
        seen: entries that publication has dealt with.
        standing: entries of a state group in which blocks stand.
    """

    __slots__ = ("dropped", "length", "own", "pieces", "published", "seen", "standing")

    def __init__(self) -> None:
        self.length = self.dropped = self.own = self.published = self.seen = 0
        self.pieces: list[Piece] = []
        self.standing: set[int] = set()


class SparseGroup(Group):
    """What window and state groups have in common.

    Args:
        place: of its holding among those of a request.
        width: groups that share the table.
        kept: tokens that are kept though no token looks at them any more.

    Attributes:
        looked_at: computed tokens that the next one looks at; behind: those that are kept for it.
    """

    def __init__(
        self,
        place: int,
        width: int,
        group: CacheGroup,
        config: EngineConfig,
        pool: SharedPool,
        kept: int = 0,
    ) -> None:
        self.place = place
        self.width = self.pace = width
        self.group = group
        self.config = config
        self.block_size = group.block_size
        self.window = group.window
        self.looked_at = group.window - 1
        self.behind = self.looked_at + kept
        self.pool = pool
        self._alignment = config.hit_alignment
        self.index = StripIndex(group.block_size, width, pool)
        self._cap = group.admission_cap(config.max_in_flight_tokens + kept, config.max_model_len)

    def enter(self, request: HybridRequest) -> None:
        """A request is new: it has nothing."""
        request.sparse.append(SparseHolding())

    @property
    def blocks_for_hit(self) -> int:
        """Blocks before the end of a hit that it needs; all it can get where it is shorter."""
        return -(-self.looked_at // self.block_size)

    def tail(self, content: Content, tokens: int) -> Tail:
        """What a hit of so many tokens begins with; it is there."""
        size = self.block_size
        return self.index.find(content, max(0, tokens - self.looked_at) // size, tokens // size)

    def adopt(self, request: HybridRequest, hit: Hit) -> None:
        """Hold the blocks found; those before them are not needed."""
        holding, pieces = request.sparse[self.place], hit.tails[self.place].pieces
        self.index.hold(pieces)
        length = hit.tokens // self.block_size
        first = pieces[0].start if pieces else length
        holding.pieces = pieces
        holding.published = length - first
        holding.length = holding.seen = length
        holding.dropped = first

    def give_back(self, holding: SparseHolding, entries: int, stop: int) -> None:
        """Let go of ``entries`` held entries before ``stop``, group after group, the last one first."""
        unpublished = entries
        pieces = holding.pieces
        if pieces and pieces[0].start < stop:
            going = cut_off(pieces, stop)
            self.index.let_go(going)
            published = sum([piece.stop - piece.start for piece in going if piece.low == 0])
            holding.published -= published
            unpublished -= published
        holding.own -= unpublished
        self.pool.blank += unpublished * self.width

    def leave(self, holding: SparseHolding, entry: int) -> bool:
        """Let go of the first held entry, if it is published; else it is the caller's."""
        pieces = holding.pieces
        if not pieces or pieces[0].start > entry:
            return False
        self.index.let_go_first(pieces)
        holding.published -= 1
        return True

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
        holding.own = holding.length - holding.dropped - holding.published

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
        content = request.content
        for first, last in _stretches(places):
            holding.pieces += self.index.publish(content, first, last)
        self.note(content, places)
        holding.published += len(places)
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

    def note(self, content: Content, places: Sequence[int]) -> None:
        """These blocks are published now."""

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
        self.give_back(holding, holding.own + holding.published, holding.length)
        holding.length = holding.dropped = holding.seen = 0


def _stretches(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rising numbers as half-open ranges."""
    start = last = places[0]
    for place in places:
        if place > last + 1:
            yield start, last + 1
            start = place
        last = place
    yield start, last + 1
