"""Caches of requests with drafts: rejected ones must leave no recurrent state behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from kvplan.engine.hybrid.cache import HybridCache
from kvplan.engine.hybrid.group import Group, Hit
from kvplan.engine.hybrid.states import BoundaryStates, RunningState
from kvplan.engine.hybrid.windows import WindowGroup

if TYPE_CHECKING:
    from kvplan.engine.config import CacheGroup, EngineConfig
    from kvplan.engine.hybrid.pool import SharedPool
    from kvplan.engine.hybrid.request import HybridRequest
    from kvplan.engine.speculation.request import DraftedRequest
    from kvplan.engine.speculation.rules import DraftRules


class DraftedStates(BoundaryStates):
    """States at block boundaries, and behind the running one as many as a step has drafts.

    These stay at the end of the table: where it grows past them they move on, and their entries are empty. No
    state is kept for tokens that are not computed yet: what a step reaches is the request's own ``reach``.
    """

    def __init__(
        self, place: int, width: int, group: CacheGroup, config: EngineConfig, pool: SharedPool, drafts: int
    ) -> None:
        super().__init__(place, width, group, config, pool)
        self.drafts = drafts

    def _entries(self, tokens: int) -> int:
        """Length of a table whose running state is that after so many tokens."""
        return -(-tokens // self.block_size) + self.drafts

    def need(
        self, request: HybridRequest, covered: int, hit: Hit | None, computed: int, *, admission: bool
    ) -> int:
        """As the base class; the first blocks are one and those of the drafts."""
        if hit is not None and self.is_fresh(hit):
            return self.config.num_blocks + 1
        found, unheld = (
            (0, 0) if hit is None else (hit.tokens // self.block_size, hit.tails[self.place].unheld)
        )
        tokens = covered if admission else cast("DraftedRequest", request).reach
        missing = self._entries(tokens) - found
        return min(max(missing, 0), 1 + self.drafts) * self.width + unheld

    def lacks(self, request: HybridRequest, covered: int) -> int:
        """One block for a step that ends in a new one."""
        entries = self._entries(cast("DraftedRequest", request).reach)
        return self.width if entries > request.sparse[self.place].length else 0

    def grow(self, request: HybridRequest, covered: int) -> int:
        """As the base class; what drafts have moves to the end."""
        holding = request.sparse[self.place]
        entries, standing = self._entries(cast("DraftedRequest", request).reach), holding.standing
        before = holding.length
        if entries <= before:
            return 0
        running = entries - self.drafts - 1
        length = max(before, running)
        if holding.own:
            for entry in range(before - self.drafts, min(before, running)):
                standing.remove(entry)
                standing.add(length)
                length += 1
        new = max(entries - length, 0)
        standing.update(range(length, length + new))
        holding.own += new
        holding.length = length + new
        return new * self.width

    def settled_until(self, request: HybridRequest, processed: int) -> int:
        """Every step is asked for anew."""
        return 0


class DraftCache(HybridCache):
    """Groups of one engine whose requests have drafts in a step.

    Where several modules make them, the tokens that a later one may compute again stay within the windows.
    """

    def __init__(self, config: EngineConfig, rules: DraftRules) -> None:
        self.drafts = rules.tokens
        self.computed_anyway = max(1, rules.hash_lookahead)
        self._kept = rules.prompt_lookahead - 1
        super().__init__(config)

    def window_group(self, place: int, width: int, group: CacheGroup) -> Group:
        """As the base class; what may be computed again stays."""
        return WindowGroup(place, width, group, self.config, self.pool, self._kept)

    def state_group(self, place: int, width: int, group: CacheGroup) -> Group:
        """As the base class, with a state for every draft."""
        if self.config.enable_prefix_caching:
            return DraftedStates(place, width, group, self.config, self.pool, self.drafts)
        return RunningState(place, width * (1 + self.drafts), group, self.config, self.pool)
