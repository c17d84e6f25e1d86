"""Groups of local attention in chunks (Llama 4): a forest of prefix indexes, one root a chunk.

Within its chunk such a group is like full attention: blocks are filled, hit and held from the chunk's start,
and given back together, the end first. So every chunk of content is a tree of its own, found by the
fingerprint of what comes before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from kvplan.engine.blocks import Segment
from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.content import Content
from kvplan.engine.hybrid.full import FullHolding
from kvplan.engine.hybrid.group import Group, Hit
from kvplan.engine.hybrid.pool import SharedPool
from kvplan.engine.prefix_hash import PrefixIndex
from kvplan.engine.prefix_node import Match, Node

if TYPE_CHECKING:
    from kvplan.engine.hybrid.request import HybridRequest


class ChunkRoot(Node):
    """Where the blocks of one chunk begin; it is there as long as anybody has or publishes one."""

    __slots__ = ("__weakref__",)

    def __init__(self, block: int) -> None:
        super().__init__(Content((), ()), block, block, None, 0)


class ChunkHolding(FullHolding):
    """What a request has of one chunk in one group, as the group's prefix index wants to see it.

    Attributes:
        start: blocks before the chunk.
        stop: blocks before its end.
    """

    __slots__ = ("start", "stop")

    def __init__(self, request: HybridRequest, root: Node, stop: int) -> None:
        super().__init__(request, root, 1)
        self.start = self.in_tree = self.published = root.end
        self.stop = stop

    def published_blocks(self) -> int:
        """As the base class; the next chunk is another holding's."""
        return min(super().published_blocks(), self.stop)


class ChunkIndex(PrefixIndex[ChunkHolding]):
    """Prefix cache of one group."""

    def __init__(self, block_size: int, pool: SharedPool) -> None:
        super().__init__(block_size, pool)
        self._roots: WeakValueDictionary[int, ChunkRoot] = WeakValueDictionary()

    def find(self, content: Content, start: int, limit: int) -> Match:
        """The longest run of cached blocks from block ``start``, a chunk's first, up to ``limit``."""
        root = self._roots.get(self._name(content, start))
        if root is not None:
            return self.match_from(root, content, limit)
        nothing = Match()
        nothing.blocks = start
        return nothing

    def enter(self, request: HybridRequest, start: int, stop: int) -> ChunkHolding:
        """What a request will have of the chunk with these blocks; it has nothing yet."""
        name = self._name(request.content, start)
        root = self._roots.get(name)
        if root is None:
            root = self._roots[name] = ChunkRoot(start)
        return ChunkHolding(request, root, stop)

    def _name(self, content: Content, start: int) -> int:
        return content.fingerprint(start * self.block_size) if start else 0


class ChunkTable:
    """A block table of which only the chunk in computation is left, and what steps in flight still read.

    Attributes:
        length: entries, those that were given back included.
        dropped: entries at the front that were given back or never taken.
        seen: entries that publication has dealt with.
        parts: chunks of which something is published, each with what is held in every group, in rising order.
    """

    __slots__ = ("dropped", "length", "parts", "seen")

    def __init__(self) -> None:
        self.length = self.dropped = self.seen = 0
        self.parts: list[list[ChunkHolding]] = []


class ChunkGroup(Group):
    """Each token sees the tokens before it in its own chunk; earlier chunks are given back.

    Args:
        place: of its table among those of a request.
        width: groups that share the table.
    """

    def __init__(
        self, place: int, width: int, group: CacheGroup, config: EngineConfig, pool: SharedPool
    ) -> None:
        self.place = place
        self.width = self.pace = width
        self.group = group
        self.block_size = group.block_size
        self.chunk = group.window
        self.pool = pool
        self.indexes = [ChunkIndex(group.block_size, pool) for _ in range(width)]
        self._cap = group.admission_cap(config.max_in_flight_tokens, config.max_model_len)

    @property
    def evict(self) -> Callable[[Segment, int], int]:
        """As ``PrefixIndex.evict``, whatever group the segment is of."""
        return self.indexes[0].evict

    def enter(self, request: HybridRequest) -> None:
        """A request is new: it has nothing."""
        request.chunks.append(ChunkTable())

    def first(self, computed: int) -> int:
        """Blocks of chunks before that of the next token."""
        return computed // self.chunk * self.chunk // self.block_size

    def chunk_end(self, computed: int) -> int:
        """Tokens up to the end of the next token's chunk."""
        return (computed // self.chunk + 1) * self.chunk

    def need(
        self, request: HybridRequest, covered: int, hit: Hit | None, computed: int, *, admission: bool
    ) -> int:
        """As many as the tokens fill; of a whole sequence no more than the cap of a chunk."""
        required = -(-covered // self.block_size)
        if admission and self._cap is not None and required > self._cap:
            required = self._cap
        if hit is None:
            return max(required - request.chunks[self.place].length, 0) * self.width
        missing = max(required - max(self.first(computed), hit.tokens // self.block_size), 0)
        return missing * self.width + sum(match.unheld for match in hit.chunks[self.place])

    def lacks(self, request: HybridRequest, covered: int) -> int:
        """As many as the tokens fill."""
        missing = -(-covered // self.block_size) - request.chunks[self.place].length
        return missing * self.width if missing > 0 else 0

    def adopt(self, request: HybridRequest, hit: Hit) -> None:
        """Hold what matched of the chunk that the hit ends in; those before it are not needed."""
        table, matches = request.chunks[self.place], hit.chunks[self.place]
        table.dropped = table.length = table.seen = hit.tokens // self.block_size
        if matches[0].path:
            table.dropped = self.first(hit.tokens)
            part = self._part(request, table.dropped)
            for index, holding, match in zip(self.indexes, part, matches, strict=True):
                index.hold(holding, match)

    def _part(self, request: HybridRequest, block: int) -> list[ChunkHolding]:
        """What a request has of this block's chunk: of the last one it has anything of, or nothing yet."""
        parts = request.chunks[self.place].parts
        if parts and block < parts[-1][0].stop:
            return parts[-1]
        size, chunk = self.block_size, self.chunk
        number = ((block + 1) * size - 1) // chunk
        start, stop = number * chunk // size, (number + 1) * chunk // size
        part = [index.enter(request, start, stop) for index in self.indexes]
        parts.append(part)
        return part

    def drop(self, request: HybridRequest, processed: int) -> None:
        """The chunks before that of the next token."""
        table = request.chunks[self.place]
        stop = min(self.first(processed), table.length)
        if stop > table.dropped:
            self._give_back(table, stop)

    def _give_back(self, table: ChunkTable, stop: int) -> None:
        """Let go of the entries before ``stop``, group after group, the last one first."""
        going = [part for part in table.parts if part[0].stop <= stop or stop == table.length]
        blank = (stop - table.dropped) * self.width
        for number, index in enumerate(self.indexes):
            for part in reversed(going):
                holding = part[number]
                end = min(holding.stop, stop)
                blank -= end - holding.start
                index.release(holding, end)
        self.pool.blank += blank
        del table.parts[: len(going)]
        table.dropped = stop

    def grow(self, request: HybridRequest, covered: int) -> int:
        """As the base class."""
        table = request.chunks[self.place]
        missing = -(-covered // self.block_size) - table.length
        if missing <= 0:
            return 0
        table.length += missing
        return missing * self.width

    def settled_until(self, request: HybridRequest, processed: int) -> int:
        """As far as the blocks reach, or until the next chunk begins."""
        return min(request.chunks[self.place].length * self.block_size, self.chunk_end(processed))

    def keeps_step(self, request: HybridRequest, computed: int, processed: int) -> bool:
        """As the base class; only within one chunk."""
        table, first = request.chunks[self.place], self.first(processed)
        length = -(-computed // self.block_size)
        return table.length == length and table.dropped == first == self.first(computed)

    def write_down(self, request: HybridRequest, computed: int, processed: int) -> None:
        """As the base class."""
        request.chunks[self.place].length = -(-computed // self.block_size)

    def publish(self, request: HybridRequest, tokens: int) -> bool:
        """All full blocks; whoever waits for an open node to grow says so (``Hit.open_end``)."""
        table, stop = request.chunks[self.place], tokens // self.block_size
        block, news = max(table.seen, table.dropped), False
        while block < stop:
            part = self._part(request, block)
            block = min(stop, part[0].stop)
            for index, holding in zip(self.indexes, part, strict=True):
                news |= block > holding.in_tree and holding.tail.owner is not holding
                index.publish(holding, block)
                if block == holding.stop:
                    index.finish(holding)
        table.seen = stop
        return news

    def publishes(self, request: HybridRequest, progress: int) -> bool:
        """As long as no open node of the chunk grows with the request."""
        parts = request.chunks[self.place].parts
        if not parts or progress // self.block_size >= parts[-1][0].stop:
            return True
        return any(holding.tail.owner is not holding for holding in parts[-1])

    def close(self, request: HybridRequest) -> None:
        """End the nodes that grow with the request."""
        for part in request.chunks[self.place].parts:
            for index, holding in zip(self.indexes, part, strict=True):
                if holding.tail.owner is holding:
                    index.close(holding.tail)

    def note_published(self, request: HybridRequest) -> None:
        """Write down what follows from the request's progress."""
        for part in request.chunks[self.place].parts:
            for holding in part:
                holding.published = holding.published_blocks()

    def release(self, request: HybridRequest) -> None:
        """Give everything back."""
        table = request.chunks[self.place]
        self._give_back(table, table.length)
        table.length = table.dropped = table.seen = 0
