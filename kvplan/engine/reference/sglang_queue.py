"""The oracle of how SGLang orders who waits (``SchedulePolicy``)."""

from __future__ import annotations

from kvplan.engine.reference.radix import TokenTree
from kvplan.engine.reference.sglang_state import SglangState
from kvplan.engine.sglang.config import (
    IN_BATCH_PREFIX_TOKENS,
    LPM_QUEUE_LIMIT,
    WAITING_REFRESH_PASSES,
    SglangConfig,
)


class QueueOrder:
    """Puts the waiting queue in order before every prefill, and refreshes what it waits for.

    Args:
        config: engine options.
        tree: what is cached.
    """

    def __init__(self, config: SglangConfig, tree: TokenTree) -> None:
        self.config = config
        self.tree = tree
        self.passes = 0
        """Times that the queue was left in order of arrival."""

    def arrange(self, waiting: list[SglangState]) -> None:
        """``calc_priority``; the list is sorted in place."""
        if self.config.schedule_policy == "lpm" and len(waiting) <= LPM_QUEUE_LIMIT:
            self._sort_by_longest_prefix(waiting)
            return
        if not waiting or self.config.radix_eviction_policy != "lru":
            return
        # ``_touch_waiting_prefixes``: what is waited for is not the first to be evicted.
        if self.passes % WAITING_REFRESH_PASSES == 0:
            for state in reversed(waiting[:LPM_QUEUE_LIMIT]):
                self.tree.match(state.content, state.tokens)
        self.passes += 1

    def _sort_by_longest_prefix(self, waiting: list[SglangState]) -> None:
        queue_tree = TokenTree(1, "lru", "radix")
        rank: dict[SglangState, float] = {}
        for state in waiting:
            hit, _ = self.tree.match(state.content, state.tokens)
            rank[state] = -min(hit, state.tokens - 1)
            if hit <= IN_BATCH_PREFIX_TOKENS:
                alike, _ = queue_tree.match(state.content, state.tokens)
                if alike >= IN_BATCH_PREFIX_TOKENS:
                    rank[state] = float("inf")
                else:
                    queue_tree.insert(state.content, state.tokens, 0, 0)
        waiting.sort(key=lambda state: rank[state])
