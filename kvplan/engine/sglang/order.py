"""The order in which waiting requests are looked at: as they came, or longest cached prefix first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from kvplan.engine.sglang.config import (
    IN_BATCH_PREFIX_TOKENS,
    LPM_QUEUE_LIMIT,
    WAITING_REFRESH_PASSES,
    SglangConfig,
)
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.prefix_radix import RadixIndex


class WaitingOrder:
    """``calc_priority``: sorted, or the cached prefixes of the queue's first requests are used again."""

    def __init__(self, config: SglangConfig) -> None:
        self._longest_first = config.schedule_policy == "lpm"
        self._refreshes = config.radix_eviction_policy == "lru"
        self._passes = 0
        """Times the queue was looked at in an order that does not ask the cache."""

    def of(self, waiting: deque[SglangRequest], pool: TokenPool) -> deque[SglangRequest]:
        """The queue in the order in which it is looked at; looking touches the tree."""
        if self._longest_first and len(waiting) <= LPM_QUEUE_LIMIT:
            return deque(longest_prefix_first(waiting, pool))
        if self._refreshes:
            if self._passes % WAITING_REFRESH_PASSES == 0:
                for request in reversed([*islice(waiting, LPM_QUEUE_LIMIT)]):
                    pool.tree.match(request.content, pool.known(request.tokens))
            self._passes += 1
        return waiting


def longest_prefix_first(waiting: Iterable[SglangRequest], pool: TokenPool) -> list[SglangRequest]:
    """The queue, sorted (stable); looking touches and splits the tree, as in SGLang.

    Of requests with hardly any cached prefix that share one among themselves only the first keeps its
    place: the others go to the end, so that they find its prefix cached when their turn comes.
    """
    in_queue = RadixIndex(1, "lru", "radix")
    ranked: list[tuple[float, int, SglangRequest]] = []
    for position, request in enumerate(waiting):
        tokens = request.tokens
        hit, node = pool.tree.match(request.content, pool.known(tokens))
        # What lies below the device counts as cached, but keeps nobody from the comparison that follows.
        rank = float(-min(node.end, tokens - 1))
        if hit <= IN_BATCH_PREFIX_TOKENS:
            alike, _ = in_queue.match(request.plain, tokens)
            if alike >= IN_BATCH_PREFIX_TOKENS:
                rank = float("inf")
            else:
                in_queue.insert(request.plain, tokens, 0, 0)
        ranked.append((rank, position, request))
    ranked.sort()
    return [request for _, _, request in ranked]
