"""The order in which waiting requests are looked at under ``lpm``: longest cached prefix first."""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.engine.sglang.config import IN_BATCH_PREFIX_TOKENS
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.prefix_radix import RadixIndex


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
