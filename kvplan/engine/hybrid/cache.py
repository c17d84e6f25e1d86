"""All groups of one engine on one pool: look-up, admission checks, allocation, publication, release."""

from __future__ import annotations

from itertools import chain, groupby

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.hybrid.chunks import ChunkGroup
from kvplan.engine.hybrid.full import FullGroup
from kvplan.engine.hybrid.group import Group, Hit
from kvplan.engine.hybrid.lookup import Lookup
from kvplan.engine.hybrid.pool import SharedPool
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.hybrid.rhythm import Rhythm
from kvplan.engine.hybrid.states import BoundaryStates, RunningState
from kvplan.engine.hybrid.windows import WindowGroup


class HybridCache:
    """vLLM's ``KVCacheManager`` with its coordinator."""

    no_hit = Hit()
    """What a look-up without a prefix cache finds."""

    computed_anyway = 1
    """Known tokens at the end of a request that are computed whatever is cached."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.alignment = config.hit_alignment
        self.pool = SharedPool(config.usable_blocks)
        self._groups = self._tables()
        self._lookup = Lookup(self._groups, self.alignment)
        self._states = [group for group in self._groups if isinstance(group, BoundaryStates)]
        for group in self._groups:
            if isinstance(group, FullGroup | ChunkGroup):
                self.pool.segments_evicted_by(group.evict)

    def _tables(self) -> list[Group]:
        """In the order of the groups, which is that of release."""
        config, pool = self.config, self.pool
        full = sparse = chunks = 0
        tables: list[Group] = []
        for group, members in groupby(config.groups):
            width = len(list(members))
            if group.kind == "full":
                size, places = group.block_size, range(full, full + width)
                tables += [FullGroup(place, size, self.alignment, pool) for place in places]
                full += width
            elif group.kind == "chunked":
                tables.append(ChunkGroup(chunks, width, group, config, pool))
                chunks += 1
            else:
                if group.kind == "sliding":
                    tables.append(self.window_group(sparse, width, group))
                else:
                    tables.append(self.state_group(sparse, width, group))
                sparse += 1
        return tables

    def window_group(self, place: int, width: int, group: CacheGroup) -> Group:
        """``width`` groups of windows that share a table."""
        return WindowGroup(place, width, group, self.config, self.pool)

    def state_group(self, place: int, width: int, group: CacheGroup) -> Group:
        """``width`` groups of recurrent states that share a table."""
        kind = BoundaryStates if self.config.enable_prefix_caching else RunningState
        return kind(place, width, group, self.config, self.pool)

    def rhythm(self) -> Rhythm | None:
        """For requests that decode in step; None where a group's blocks come and go in another way."""
        if not Rhythm.suits(self._groups, self.alignment):
            return None
        return Rhythm(self._groups, self.alignment, self.pool, 1 if self.config.async_scheduling else 0)

    def enter(self, request: HybridRequest) -> None:
        """A request is new: it has nothing."""
        for group in self._groups:
            group.enter(request)

    def start_step(self) -> None:
        """Called once for every step that is planned."""
        for group in self._states:
            group.fresh.clear()

    def begins_fresh(self, hit: Hit) -> bool:
        """Whether a hit ends in a state that this very step computes: from the next one on it can be used."""
        return bool(hit.tokens) and any(group.is_fresh(hit) for group in self._states)

    # -- admission --------------------------------------------------------------------------------------

    def lookup(self, request: HybridRequest) -> Hit:
        """Longest usable cached prefix; the last known tokens are left to compute. Changes nothing but
        the request's remembered shared-prefix boundary.
        """
        hit = self._lookup.longest(request, max(request.num_tokens - self.computed_anyway, 0))
        request.shared_prefix_boundary = hit.longest if hit.longest > hit.tokens else 0
        return hit

    def sheltering(self, hit: Hit) -> int:
        """Blocks, at least, that are evicted before any of a hit's, as long as nobody is admitted."""
        entries: set[object] = set()
        for match in chain(hit.matches, *hit.chunks.values()):
            entries.update([node.copies[0] for node in match.path])
        for tail in hit.tails.values():
            entries.update(tail.batches())
        return self.pool.before(entries)

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
        return self.publish_filled(request, tokens - tokens % self.alignment)

    def publish_filled(self, request: HybridRequest, tokens: int) -> bool:
        """As ``publish``, also where no hit can end."""
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
        if not self.config.enable_prefix_caching:
            return False
        return any(group.publishes(request, progress) for group in self._groups)

    def close(self, request: HybridRequest) -> None:
        """What the request computes from now on is published by its own account."""
        for group in self._groups:
            group.close(request)

    def note_published(self, request: HybridRequest) -> None:
        """The request leaves the step: write down what follows from its progress."""
        for group in self._groups:
            group.note_published(request)

    def release(self, request: HybridRequest) -> None:
        """Give all blocks back, group after group, the end of the sequence first."""
        for group in self._groups:
            group.release(request)
        request.settled_until = request.published_tokens = 0
