"""Requests that wait: who goes first, and who is turned away (``waiting_queue``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from kvplan.engine.sglang.config import CACHE_AWARE, LPM_QUEUE_LIMIT, WAITING_REFRESH_PASSES, SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.order import (
    heaviest_branch_first,
    highest_ratio_first,
    longest_prefix_first,
    looked_up,
    shortest_prefill_first,
)
from kvplan.engine.sglang.pool import TokenPool

QUEUE_FULL: Final = "the queue was full (max_queued_requests)"
PUSHED_OUT: Final = "a request of higher priority took the place in the full queue (max_queued_requests)"


class WaitingQueue:
    """The queue of one engine instance, in the order in which it was looked at last.

    Attributes:
        turned_away: who had no place, and why; whoever reads it takes them out.
    """

    def __init__(self, config: SglangConfig, pool: TokenPool) -> None:
        self._config = config
        self._pool = pool
        self._policy = config.order
        self._refreshes = pool.caching and config.radix_eviction_policy == "lru"
        self._items: deque[SglangRequest] = deque()
        self._entered = 0
        self._passes = 0
        """Times the queue was looked at in an order that does not ask the cache."""
        self._sorted = True
        """Whether nobody has come since: facts about requests that wait do not change."""
        self._uncached: list[int] = []
        """Tokens to compute of each, as they were when it was sorted by them."""
        self.turned_away: list[tuple[SglangRequest, str]] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[SglangRequest]:
        return iter(self._items)

    def __getitem__(self, index: int) -> SglangRequest:
        return self._items[index]

    def enter(self, request: SglangRequest, processed: int) -> None:
        """A request comes, or comes back (``_add_request_to_queue``).

        Args:
            processed: prompt tokens computed so far, as ``hrrn`` counts them.
        """
        most = self._config.max_queued_requests
        if most is not None and len(self._items) >= most and not self._make_place(request):
            self.turned_away.append((request, QUEUE_FULL))
            return
        self._entered = request.queued = self._entered + 1
        request.queued_after = processed
        self._items.append(request)
        self._sorted = False

    def _make_place(self, request: SglangRequest) -> bool:
        """In a full queue, whether the least important makes room for a more important one
        (``_abort_on_queued_limit``)."""
        if not self._config.enable_priority_scheduling:
            return False
        rank = self._config.rank
        last = max(self._items, key=lambda it: (rank(it.request.priority), it.queued))
        if rank(request.request.priority) >= rank(last.request.priority):
            return False
        self._items.remove(last)
        self.turned_away.append((last, PUSHED_OUT))
        return True

    def remove(self, request: SglangRequest) -> None:
        """A request does not wait any more."""
        self._items.remove(request)

    def take(self) -> SglangRequest:
        """The first one is in a batch."""
        return self._items.popleft()

    # -- the order --------------------------------------------------------------------------------------

    def sort(self, processed: int) -> None:
        """Put it in order (``calc_priority``); looking touches the tree."""
        items, policy = self._items, self._policy
        if not items:
            return
        asks = policy in CACHE_AWARE and (policy not in ("lpm", "hrrn") or len(items) <= LPM_QUEUE_LIMIT)
        if asks:
            self._ask_the_cache(processed)
            return
        if not self._sorted:
            self._sort_by_facts()
            self._sorted = True
        if self._refreshes:
            if self._passes % WAITING_REFRESH_PASSES == 0:
                self._refresh()
            self._passes += 1

    def _ask_the_cache(self, processed: int) -> None:
        queue = looked_up(self._items, self._pool)
        if self._policy == "lpm":
            longest_prefix_first(queue)
        elif self._policy == "hrrn":
            highest_ratio_first(queue, processed)
        elif self._policy == "dfs-weight":
            heaviest_branch_first(queue, self._pool.tree.root)
        else:
            shortest_prefill_first(queue)
            self._uncached = [it.uncached for it in queue]
        self._items = deque(it.request for it in queue)

    def _sort_by_facts(self) -> None:
        """By what does not change while a request waits."""
        rank = self._config.rank
        by_priority = self._config.enable_priority_scheduling
        if self._policy == "lof" and by_priority:
            self._items = deque(
                sorted(self._items, key=lambda it: (rank(it.request.priority), -it.max_new_tokens))
            )
        elif self._policy == "lof":
            self._items = deque(sorted(self._items, key=lambda it: -it.max_new_tokens))
        elif self._policy == "fcfs" and by_priority:
            self._items = deque(sorted(self._items, key=lambda it: (rank(it.request.priority), it.queued)))

    def _refresh(self) -> None:
        """The cached prefixes of the first requests become recently used, the head's last."""
        pool = self._pool
        for request in reversed([*islice(self._items, LPM_QUEUE_LIMIT)]):
            pool.tree.match(request.content, pool.known(request.tokens))

    def chunk_limit(self, left: int, room: int, page: int) -> int | None:
        """Tokens, whole pages, that a prefill may take of a batch's ``room``, so that shorter ones than what
        is ``left`` of it go along; None: any number (``shortest_prefill_chunk_limit``)."""
        if self._policy != "shortest-prefill-first" or room < 2 * page:
            return None
        reserved = 0
        for uncached in self._uncached[: len(self._items)]:
            charge = -(-uncached // page) * page
            if uncached >= left or reserved + charge > room - page:
                break
            reserved += charge
        return (room - reserved) // page * page if reserved else None
