"""A cache without a clock: requests pass through a radix cache in order, a fixed number at a time.

This is the life cycle in which SGLang's real caches were recorded (not SGLang's scheduler): admit in order,
finish the oldest first, generate an answer in one go. It answers what a cache of this size and policy keeps
of a workload, and the recordings hold both trees to the real ones' decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple

from kvplan.engine.sglang.radix_tree import ContentT, Holding, NodeT, RadixTree, checkpoint, release
from kvplan.traces.request import Request


class Admitted(NamedTuple):
    """A request took its place; tokens found in the cache, and evicted to make room for its prompt."""

    id: str
    hit_tokens: int
    evicted_tokens: int


class Finished(NamedTuple):
    """A request is done; tokens evicted for its answer, and tokens in the tree afterwards."""

    id: str
    evicted_tokens: int
    tree_tokens: int


class Refused(NamedTuple):
    """A request that does not fit into the whole pool."""

    id: str


Event = Admitted | Finished | Refused


class _Active(Generic[NodeT, ContentT]):
    __slots__ = ("holding", "output_tokens", "request")

    def __init__(self, request: Request, holding: Holding[NodeT, ContentT]) -> None:
        self.request = request
        self.holding = holding
        self.output_tokens = request.output_tokens


class CacheReplay(Generic[NodeT, ContentT]):
    """One cache, one pool.

    Args:
        tree: the prefix cache.
        pool_tokens: tokens the pool holds, cut to whole pages as SGLang's paged allocator does.
        concurrency: requests active at a time, at most.
        max_context: prompt and answer of a request together, at most; 0 is no limit.
    """

    def __init__(
        self, tree: RadixTree[NodeT, ContentT], pool_tokens: int, concurrency: int, max_context: int = 0
    ) -> None:
        self.tree = tree
        self.pool_tokens = pool_tokens - pool_tokens % tree.page_size
        self.free = self.pool_tokens
        self.concurrency = concurrency
        self.max_context = max_context
        self.active: deque[_Active[NodeT, ContentT]] = deque()
        self.peak_active = 0
        self.peak_used = 0

    def run(self, requests: Iterable[Request]) -> Iterator[Event]:
        """Play the requests in the order given; then finish what is active."""
        for request in requests:
            yield from self._admit(request)
        while self.active:
            yield self._finish()

    def _admit(self, request: Request) -> Iterator[Event]:
        tree, page = self.tree, self.tree.page_size
        length = request.prompt_tokens + request.output_tokens
        # Alone in an empty cache, this is what the look below would ask for.
        most = length - 1 + 2 * page
        if most > self.pool_tokens or (self.max_context and length > self.max_context):
            yield Refused(request.id)
            return
        if len(self.active) >= self.concurrency:
            yield self._finish()
        content = tree.content(request)
        answer = request.output_tokens - 1 + page
        while True:
            hit, node = tree.match(content, request.prompt_tokens - 1)
            demand = request.prompt_tokens - hit + page + answer
            demand += sum(other.output_tokens - 1 + page for other in self.active)
            if self.free + tree.evictable - tree.unheld(node) >= demand:
                break
            yield self._finish()
        tree.lock(node)
        holding = Holding(content, request.prompt_tokens, request.priority, node, hit, hit)
        evicted = self._grow(holding, request.prompt_tokens)
        self.free += checkpoint(tree, holding, request.prompt_tokens)
        self.active.append(_Active(request, holding))
        self.peak_active = max(self.peak_active, len(self.active))
        yield Admitted(request.id, hit, evicted)

    def _finish(self) -> Event:
        item = self.active.popleft()
        request, tree = item.request, self.tree
        tokens = request.prompt_tokens + request.output_tokens - 1
        evicted = self._grow(item.holding, tokens, request.output_tokens - 1)
        self.free += release(tree, item.holding, tokens)
        return Finished(request.id, evicted, tree.evictable + tree.protected)

    def _grow(self, holding: Holding[NodeT, ContentT], tokens: int, new: int | None = None) -> int:
        """Room for the first ``tokens`` tokens; returns tokens evicted. The allocator asks for a page more
        than it needs where a page holds several tokens."""
        page = self.tree.page_size
        asked = tokens - holding.shared if new is None else new
        if not asked:
            return 0
        asked += page if page > 1 else 0
        evicted = 0
        if asked > self.free:
            evicted = self.tree.evict(asked - self.free)
            self.free += evicted
        room = -(-tokens // page) * page
        self.free -= room - holding.allocated
        holding.allocated = room
        self.peak_used = max(self.peak_used, self.pool_tokens - self.free)
        return evicted
