"""The orders in which SGLang's queue is looked at (``SchedulePolicy``); all sorts are stable.

Orders that ask the cache do so for every request that waits: looking makes what is found recently used, and
splits the tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from kvplan.engine.sglang.config import IN_BATCH_PREFIX_TOKENS
from kvplan.engine.sglang.eviction import least_recently_used
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.prefix_radix import RadixIndex, RadixNode


class Looked(NamedTuple):
    """A request, and what the cache has of it.

    Attributes:
        cached: leading tokens that are cached, on the device or below, one fewer than it has at most.
        node: where those on the device end (``last_node``).
        repeats: whether it has hardly any, and begins like a request before it in the queue: that one goes
            first, so that its prefix is cached when this one's turn comes.
    """

    request: SglangRequest
    cached: int
    node: RadixNode
    repeats: bool

    @property
    def uncached(self) -> int:
        """Tokens to compute, at least 1 (``_shortest_prefill_work``)."""
        return max(self.request.tokens - self.cached, 1)


def looked_up(waiting: Iterable[SglangRequest], pool: TokenPool) -> list[Looked]:
    """What the cache has of each (``_compute_prefix_matches``)."""
    in_queue = RadixIndex(1, least_recently_used, "radix")
    found = []
    for request in waiting:
        tokens = request.tokens
        hit, node = pool.tree.match(request.content, pool.known(tokens))
        repeats = False
        # What lies below the device counts as cached, but keeps nobody from the comparison that follows.
        if hit <= IN_BATCH_PREFIX_TOKENS:
            alike, _ = in_queue.match(request.plain, tokens)
            repeats = alike >= IN_BATCH_PREFIX_TOKENS
            if not repeats:
                in_queue.insert(request.plain, tokens, 0, 0)
        cached = min(pool.tree.found(node), tokens - 1)
        found.append(Looked(request, cached, pool.tree.last_on_device(node), repeats))
    return found


def longest_prefix_first(queue: list[Looked]) -> None:
    """``lpm``."""
    queue.sort(key=lambda it: inf if it.repeats else -it.cached)


def shortest_prefill_first(queue: list[Looked]) -> None:
    """``shortest-prefill-first``: fewest tokens to compute; repetitions last."""
    queue.sort(key=lambda it: (it.repeats, it.uncached, it.request.queued))


def highest_ratio_first(queue: list[Looked], processed: int) -> None:
    """``hrrn``: whoever has waited longest for what it needs, both counted in tokens; ties by name.

    Args:
        processed: prompt tokens computed so far.
    """

    def key(it: Looked) -> tuple[float, str]:
        name = it.request.request.id
        if it.repeats:
            return inf, name
        uncached = it.request.prompt_tokens - it.cached
        if uncached <= 0:
            return -inf, name
        return -(max(processed - it.request.queued_after, 0) / uncached), name

    queue.sort(key=key)


def heaviest_branch_first(queue: list[Looked], root: RadixNode) -> None:
    """``dfs-weight``: depth first through the tree, of branches the one first below which most requests wait,
    and who ends in a node behind all that end below it."""
    ending: dict[RadixNode, list[Looked]] = {}
    for it in queue:
        ending.setdefault(it.node, []).append(it)
    # Only nodes on the way to one of them have a weight; branches without are passed over.
    weights: dict[RadixNode, int] = {}
    for last, here in ending.items():
        node: RadixNode | None = last
        while node is not None:
            weights[node] = weights.get(node, 0) + len(here)
            node = node.parent
    queue.clear()
    stack = [(root, False)]
    while stack:
        node, below = stack.pop()
        if below:
            queue += ending.get(node, ())
            continue
        stack.append((node, True))
        branches = [child for child in node.children.values() if child in weights]
        branches.sort(key=lambda child: -weights[child])
        stack.extend((child, False) for child in reversed(branches))
