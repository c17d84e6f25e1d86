"""The device's cache of several groups in which every block has a number.

It answers as ``HybridCache`` does, and keeps what it answers from as the reference engine does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from kvplan.engine.config import EngineConfig
from kvplan.engine.hybrid.cache import HybridCache
from kvplan.engine.hybrid.group import Group, Hit
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.hybrid.rhythm import Rhythm
from kvplan.engine.numbered.memo import Memos
from kvplan.engine.numbered.pool import WatchedPool
from kvplan.engine.numbered.request import NumberedRequest
from kvplan.engine.reference.cache import KvCache
from kvplan.engine.reference.pool import BlockPool
from kvplan.engine.reference.recurrent import BoundaryStates

WHOLE = None
"""What a request had before, if its whole table counts as given."""


@dataclass(slots=True)
class NumberedHit(Hit):
    """Attributes:
    tables: blocks of every group.
    lags: some group has less.
    """

    tables: tuple[tuple[int, ...], ...] = ()
    lags: bool = False


class WatchedCache(KvCache):
    """The reference engine's, with answers that are kept."""

    def make_pool(self) -> BlockPool:
        """As the base class."""
        self.watched = WatchedPool(self.config.num_blocks)
        return self.watched


class NumberedCache(HybridCache):
    """See the module; ``pool`` has the numbers of blocks that are free, cached and taken, and no blocks.

    Attributes:
        tables: the blocks.
        grown: who was given blocks in the step being planned: how long its tables were before, or ``WHOLE``.
    """

    no_hit = NumberedHit()
    kept = 0
    """Tokens before a window that stay with it."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.tables = self.make_tables()
        self.grown: dict[NumberedRequest, tuple[int, ...] | None] = {}
        self.memos: Memos[NumberedHit] = self.tables.watched.memos
        self._managers = self.tables.managers
        self._boundaries = [manager for manager in self._managers if isinstance(manager, BoundaryStates)]

    def make_tables(self) -> WatchedCache:
        """The blocks of all groups, free."""
        return WatchedCache(self.config)

    def _tables(self) -> list[Group]:
        return []

    def rhythm(self) -> Rhythm | None:
        """None: which blocks come and go matters, not only how many."""
        return None

    def enter(self, request: HybridRequest) -> None:
        """As the base class."""

    def start_step(self) -> None:
        """As the base class."""
        self.tables.start_step()
        self.grown.clear()

    def begins_fresh(self, hit: Hit) -> bool:
        """As the base class."""
        tables = cast(NumberedHit, hit).tables
        return bool(hit.tokens) and any(
            manager.is_fresh(tables[manager.index][-1]) for manager in self._boundaries
        )

    def _count(self) -> None:
        blocks, pool = self.tables.pool, self.pool
        pool.cached = blocks.published_free
        pool.blank = len(blocks.free) - pool.cached
        pool.evicted = blocks.evicted_blocks
        pool.allocated = blocks.allocated_blocks

    # -- admission --------------------------------------------------------------------------------------

    def lookup(self, request: HybridRequest) -> NumberedHit:
        """As the base class."""
        known, memos = request.num_tokens, self.memos
        kept = memos.recall(request, known)
        if kept is not None:
            return kept
        state = cast(NumberedRequest, request).state
        state.num_tokens = known
        found = self.tables.lookup(state)
        request.shared_prefix_boundary = state.shared_prefix_boundary
        hit = NumberedHit(
            found.tokens, found.tokens // self.alignment, longest=found.longest, tables=found.blocks
        )
        memos.note(
            request,
            known,
            hit,
            lambda: {
                manager.key(state, block)
                for manager in self._managers
                for block in range((known + state.cut_tokens) // manager.block_size)
            },
        )
        return hit

    def lookup_apart(self, request: NumberedRequest) -> NumberedHit | None:
        """As ``KvCache.lookup_apart``."""
        request.state.num_tokens = request.num_tokens
        found = self.tables.lookup_apart(request.state)
        if found is None:
            return None
        blocks = found.tokens // self.alignment
        return NumberedHit(found.tokens, blocks, tables=found.blocks, lags=found.longest < found.tokens)

    def sheltering(self, hit: Hit) -> int:
        """None for sure: what somebody hits may be evicted first."""
        return 0

    def needs(self, request: HybridRequest, tokens: int | None, hit: Hit) -> int:
        """As the base class."""
        covered = request.num_tokens if tokens is None else hit.tokens + tokens
        return self.needed(request, covered, hit, hit.tokens, admission=tokens is None)

    def needed(
        self, request: HybridRequest, covered: int, hit: Hit | None, computed: int, *, admission: bool
    ) -> int:
        """Blocks that leave the free queue if a request is to hold ``covered`` tokens.

        ``hit`` is what it would begin with, None if it has begun; ``computed`` counts it, and what is loaded.
        """
        state = cast(NumberedRequest, request).state
        tables = None if hit is None else cast(NumberedHit, hit).tables
        return sum(
            manager.need(
                state, covered, tables[manager.index] if tables else (), computed, admission=admission
            )
            for manager in self._managers
        )

    def admit(self, request: HybridRequest, tokens: int, hit: Hit) -> None:
        """As the base class."""
        self._adopt(cast(NumberedRequest, request), hit, hit.tokens)
        self._grow(cast(NumberedRequest, request), hit.tokens + tokens)
        request.settled_until = 0

    def load(self, request: NumberedRequest, tokens: int, hit: Hit) -> None:
        """Give a request what it hits, and blocks for what is loaded behind it: ``tokens`` in all."""
        state = request.state
        self._adopt(request, hit, tokens)
        for manager in self._managers:
            if manager.skipped_tokens(tokens) < tokens:
                manager.load(state, tokens)
        self._grow(request, tokens)

    def _adopt(self, request: NumberedRequest, hit: Hit, computed: int) -> None:
        tables = cast(NumberedHit, hit).tables
        for manager in self._managers:
            manager.adopt(request.state, tables[manager.index] if tables else (), computed)
        self.grown[request] = WHOLE
        self.memos.forget(request)

    def _grow(self, request: NumberedRequest, covered: int) -> None:
        for manager in self._managers:
            manager.grow(request.state, covered)
        self._count()

    def resume(self, request: NumberedRequest, covered: int) -> None:
        """Give a request that has loaded blocks for ``covered`` tokens in all, which there are."""
        self.grown[request] = WHOLE
        self._grow(request, covered)
        request.settled_until = 0

    # -- running requests -------------------------------------------------------------------------------

    def extend(self, request: HybridRequest, computed: int, tokens: int, in_flight: int) -> bool:
        """As the base class."""
        covered = computed + tokens
        if covered <= request.settled_until:
            return True
        numbered = cast(NumberedRequest, request)
        processed = max(computed - in_flight, 0)
        self.drop(numbered, processed)
        needed = self.needed(request, covered, None, computed, admission=False)
        if needed > self.pool.free:
            return False
        if needed:
            if numbered not in self.grown:
                self.grown[numbered] = tuple([len(table) for table in numbered.state.blocks])
            self._grow(numbered, covered)
        if tokens > 1:
            request.settled_until = 0
        else:
            self._settle(request, processed)
        return True

    def drop(self, request: NumberedRequest, processed: int) -> None:
        """Give back what lies wholly behind what tokens after the first ``processed`` look at."""
        for manager in self._managers:
            manager.drop_out_of_reach(request.state, processed)
        self._count()

    def _settle(self, request: HybridRequest, processed: int) -> None:
        state = cast(NumberedRequest, request).state
        request.settled_until = min(manager.settled_until(state, processed) for manager in self._managers)

    # -- publication ------------------------------------------------------------------------------------

    def publish(self, request: HybridRequest, tokens: int) -> bool:
        """As the base class."""
        tokens -= tokens % self.alignment
        if tokens <= request.published_tokens:
            return False
        numbered = cast(NumberedRequest, request)
        request.published_tokens = tokens
        self.tables.publish(numbered.state, tokens)
        self.published(numbered)
        return True

    def published(self, request: NumberedRequest) -> None:
        """Blocks of a request can be found from now on; for subclasses that do something about it."""

    def publishes(self, request: HybridRequest, progress: int) -> bool:
        """As the base class; every block is published by itself."""
        return self.config.enable_prefix_caching

    def close(self, request: HybridRequest) -> None:
        """As the base class; nothing is open."""

    def note_published(self, request: HybridRequest) -> None:
        """As the base class; nothing follows from progress."""

    def release(self, request: HybridRequest) -> None:
        """As the base class."""
        numbered = cast(NumberedRequest, request)
        self.forget(numbered)
        self.tables.release(numbered.state)
        self._count()
        request.settled_until = request.published_tokens = 0

    def release_at_once(self, request: NumberedRequest) -> None:
        """Give all blocks back in one go, the last group's first; they have waited for a step's end."""
        state = request.state
        self.tables.pool.release([block for table in reversed(state.blocks) for block in reversed(table)])
        state.blocks = [[] for _ in state.blocks]
        self._count()

    def forget(self, request: NumberedRequest) -> None:
        """The request gives back its blocks: what it was given does not count."""
        self.grown.pop(request, None)
