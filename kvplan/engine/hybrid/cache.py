"""All groups of one engine on one pool: look-up, admission checks, allocation, publication, release."""

from __future__ import annotations

from itertools import groupby

from kvplan.engine.config import EngineConfig
from kvplan.engine.hybrid.full import FullGroup
from kvplan.engine.hybrid.group import Group, Hit
from kvplan.engine.hybrid.lookup import Lookup
from kvplan.engine.hybrid.pool import SharedPool
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.hybrid.rhythm import Rhythm
from kvplan.engine.hybrid.sparse import SparseGroup
from kvplan.engine.hybrid.states import BoundaryStates, RunningState
from kvplan.engine.hybrid.windows import ChunkGroup, WindowGroup


class HybridCache:
    """vLLM's ``KVCacheManager`` with its coordinator."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.alignment = config.hit_alignment
        self.pool = SharedPool(config.usable_blocks)
        self._full: list[FullGroup] = []
        self._sparse: list[SparseGroup] = []
        self._groups = self._tables()
        self._lookup = Lookup(self._full, self._sparse, self.alignment)
        self._states = [group for group in self._sparse if isinstance(group, BoundaryStates)]
        if self._full:
            self.pool.segments_evicted_by(self._full[0].index.evict)
        dense = config.retention_interval != 0 or any(isinstance(g, ChunkGroup) for g in self._sparse)
        self._publishes_answers = config.enable_prefix_caching and bool(self._sparse) and dense

    def _tables(self) -> list[Group]:
        """In the order of the groups, which is that of release."""
        tables: list[Group] = []
        recurrent = BoundaryStates if self.config.enable_prefix_caching else RunningState
        kinds: dict[str, type[SparseGroup]] = {
            "sliding": WindowGroup,
            "chunked": ChunkGroup,
            "mamba": recurrent,
        }
        for group, members in groupby(self.config.groups):
            width = len(list(members))
            if group.kind != "full":
                sparse = kinds[group.kind](len(self._sparse), width, group, self.config, self.pool)
                self._sparse.append(sparse)
                tables.append(sparse)
                continue
            for _ in range(width):
                full = FullGroup(len(self._full), group.block_size, self.alignment, self.pool)
                self._full.append(full)
                tables.append(full)
        return tables

    def rhythm(self) -> Rhythm | None:
        """For requests that decode in step; None where a group's blocks come and go in another way."""
        if not Rhythm.suits(self._groups, self.alignment):
            return None
        return Rhythm(self._groups, self.alignment, self.pool, 1 if self.config.async_scheduling else 0)

    def enter(self, request: HybridRequest) -> None:
        """A request is new: it has nothing."""
        for full in self._full:
            full.enter(request)
        for sparse in self._sparse:
            sparse.enter(request)

    def start_step(self) -> None:
        """Called once for every step that is planned."""
        for group in self._states:
            group.fresh.clear()

    def begins_fresh(self, hit: Hit) -> bool:
        """Whether a hit ends in a state that this very step computes: from the next one on it can be used."""
        return bool(hit.tokens) and any(group.is_fresh(hit) for group in self._states)

    # -- admission --------------------------------------------------------------------------------------

    def lookup(self, request: HybridRequest) -> Hit:
        """Longest usable cached prefix; at least one known token is left to compute. Changes nothing but
        the request's remembered shared-prefix boundary.
        """
        hit = self._lookup.longest(request, request.num_tokens - 1)
        request.shared_prefix_boundary = hit.longest if hit.longest > hit.tokens else 0
        return hit

    def stands(self, request: HybridRequest, hit: Hit) -> bool:
        """Whether a look-up would still find this, and as much of it unheld; nothing was published since."""
        for full, match in zip(self._full, hit.matches, strict=False):
            now = full.index.match(request.content, match.blocks)
            if (now.blocks, now.unheld) != (match.blocks, match.unheld):
                return False
        return all(block.first for tail in hit.tails for entry in tail for block in entry)

    def needs(self, request: HybridRequest, tokens: int | None, hit: Hit) -> int:
        """Blocks that leave the free queue if a waiting request begins with ``tokens`` more than it hits;
        ``None``: with all its known tokens, as the admission gate counts them."""
        computed = hit.tokens
        covered = request.num_tokens if tokens is None else computed + tokens
        found = hit if computed else None
        whole = tokens is None
        return sum(group.need(request, covered, found, computed, admission=whole) for group in self._groups)

    def admit(self, request: HybridRequest, tokens: int, hit: Hit) -> None:
        """It begins: give it what it hits and what it needs for ``tokens`` more."""
        if hit.tokens:
            for group in self._groups:
                group.adopt(request, hit)
        self.pool.take(sum([group.grow(request, hit.tokens + tokens) for group in self._groups]))
        request.settled_until = 0

    # -- running requests -------------------------------------------------------------------------------

    def extend(self, request: HybridRequest, computed: int, tokens: int, in_flight: int) -> bool:
        """Give a running request blocks for ``tokens`` more tokens, or return False.

        When the answer is no, nothing has changed except that the request gave back blocks it had no more
        use for. Steps in flight still read blocks behind the tokens they compute.
        """
        covered = computed + tokens
        if covered <= request.settled_until:
            return True
        processed = computed - in_flight
        if processed < 0:
            processed = 0
        groups = self._groups
        needed = 0
        for group in groups:
            group.drop(request, processed)
            needed += group.lacks(request, covered)
        if needed:
            pool = self.pool
            if needed > pool.blank + pool.cached:
                return False
            for group in groups:
                group.grow(request, covered)
            pool.take(needed)
        if tokens > 1:
            request.settled_until = 0  # the next chunk needs blocks anyway
        else:
            self._settle(request, processed)
        return True

    def _settle(self, request: HybridRequest, processed: int) -> None:
        settled = self.config.max_model_len
        for group in self._groups:
            until = group.settled_until(request, processed)
            if until < settled:
                settled = until
        request.settled_until = settled

    # -- publication ------------------------------------------------------------------------------------

    def publish(self, request: HybridRequest, tokens: int) -> bool:
        """Make the blocks wholly filled by the first ``tokens`` tokens findable, as far as a hit can end.

        Returns whether that may help somebody who waits.
        """
        tokens -= tokens % self.alignment
        if tokens <= request.published_tokens:
            return False
        request.published_tokens = tokens
        news = False
        for group in self._groups:
            if group.publish(request, tokens):
                news = True
        return news

    def publishes(self, request: HybridRequest, progress: int) -> bool:
        """Whether a request that decodes in step, and has computed ``progress`` tokens, has something to
        publish that does not follow from its progress, as long as nobody meets what it publishes."""
        if self._publishes_answers:
            return True
        if not self.config.enable_prefix_caching:
            return False
        for holding in request.full:
            if holding.tail.owner is not holding:
                return True
        return bool(self._sparse) and progress < max(
            request.prompt_tokens - 1, request.shared_prefix_boundary
        )

    def close(self, request: HybridRequest) -> None:
        """What the request computes from now on is published by its own account."""
        for full in self._full:
            full.close(request)

    def note_published(self, request: HybridRequest) -> None:
        """The request leaves the step: write down what follows from its progress."""
        for holding in request.full:
            holding.published = holding.published_blocks()

    def release(self, request: HybridRequest) -> None:
        """Give all blocks back, group after group, the end of the sequence first."""
        for group in self._groups:
            group.release(request)
        request.settled_until = request.published_tokens = 0
