"""The orders of SGLang's queue, as its ``SchedulePolicy`` has them: every request is looked at every time."""

from __future__ import annotations

from kvplan.engine.reference.radix import TokenNode, TokenTree
from kvplan.engine.reference.sglang_state import SglangState
from kvplan.engine.sglang.config import (
    CACHE_AWARE,
    IN_BATCH_PREFIX_TOKENS,
    LPM_QUEUE_LIMIT,
    WAITING_REFRESH_PASSES,
    SglangConfig,
)
from kvplan.engine.sglang.eviction import least_recently_used

LAST = float("inf")


class Policy:
    """Puts the queue in order.

    Args:
        tree: the prefix cache, looked at by some orders, and refreshed by the others.
        caching: whether there is one.
    """

    def __init__(self, config: SglangConfig, tree: TokenTree, caching: bool) -> None:
        self.config = config
        self.tree = tree
        self.caching = caching
        self.name = config.order
        self.passes = 0
        """Times the waiting queue was put in order without asking the cache."""
        self.work: dict[SglangState, int] = {}
        """``_shortest_prefill_work``."""

    def sort(self, waiting: list[SglangState], processed: int) -> None:
        """``calc_priority``, in place."""
        sign = 1 if self.config.schedule_low_priority_values_first else -1
        by_priority = self.config.enable_priority_scheduling
        too_many = self.name in ("lpm", "hrrn") and len(waiting) > LPM_QUEUE_LIMIT
        if self.name in CACHE_AWARE and not too_many:
            self._sort_by_cache(waiting, processed)
            return
        if self.name == "fcfs" and by_priority:
            waiting.sort(key=lambda state: (state.request.priority * sign, state.queued))
        elif self.name == "lof":
            waiting.sort(
                key=lambda state: (state.request.priority * sign * by_priority, -state.max_new_tokens)
            )
        if not self.caching or not waiting or self.config.radix_eviction_policy != "lru":
            return
        # ``_touch_waiting_prefixes``: what is waited for is not the first to be evicted.
        if self.passes % WAITING_REFRESH_PASSES == 0:
            for state in reversed(waiting[:LPM_QUEUE_LIMIT]):
                self.tree.match(state.content, state.tokens)
        self.passes += 1

    def _sort_by_cache(self, waiting: list[SglangState], processed: int) -> None:
        queue_tree = TokenTree(1, least_recently_used, "radix")
        deprioritized: set[SglangState] = set()
        matched: dict[SglangState, int] = {}
        nodes: dict[SglangState, TokenNode] = {}
        for state in waiting:
            hit, nodes[state] = self.tree.match(state.content, state.tokens)
            matched[state] = min(hit, state.tokens - 1)
            if hit <= IN_BATCH_PREFIX_TOKENS:
                alike, _ = queue_tree.match(state.content, state.tokens)
                if alike >= IN_BATCH_PREFIX_TOKENS:
                    deprioritized.add(state)
                else:
                    queue_tree.insert(state.content, state.tokens, 0, 0)

        def response_ratio(state: SglangState) -> tuple[float, str]:
            uncached = state.prompt_tokens - matched[state]
            waited = max(0, processed - state.queued_after)
            ratio = -LAST if uncached <= 0 else -(waited / uncached)
            return LAST if state in deprioritized else ratio, state.request.id

        if self.name == "lpm":
            waiting.sort(key=lambda state: LAST if state in deprioritized else -matched[state])
        elif self.name == "hrrn":
            waiting.sort(key=response_ratio)
        elif self.name == "dfs-weight":
            waiting[:] = _by_weight(self.tree.root, waiting, nodes)
        else:
            self.work = {state: max(1, state.tokens - matched[state]) for state in waiting}
            waiting.sort(key=lambda state: (state in deprioritized, self.work[state], state.queued))

    def chunk_limit(self, left: int, waiting: list[SglangState], budget: int) -> int | None:
        """``shortest_prefill_chunk_limit``: of a prefill of which ``left`` tokens are left."""
        page, reserved = self.config.page_size, 0
        if self.name != "shortest-prefill-first" or budget < 2 * page:
            return None
        for state in waiting:
            charge = -(-self.work[state] // page) * page
            if self.work[state] >= left or reserved + charge > budget - page:
                break
            reserved += charge
        return (budget - reserved) // page * page if reserved else None


def _by_weight(
    node: TokenNode, waiting: list[SglangState], nodes: dict[SglangState, TokenNode]
) -> list[SglangState]:
    """``_dfs_weight_order`` of who ends at ``node`` or below."""
    branches = [_by_weight(child, waiting, nodes) for child in node.children.values()]
    branches.sort(key=len, reverse=True)
    here = [state for state in waiting if nodes[state] is node]
    return [state for branch in branches for state in branch] + here
