"""Least recently used first, as vLLM ranks uses.

All chunks of a request share its rank as long as it goes on, which is that of its first use, and stand by
depth within it: the end of a prompt goes before its beginning. Whatever comes later outranks them. When the
request ends, its chunks are ranked anew, as used at that time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence, Set
from heapq import heapify, heappop, heappush

from kvplan.engine.offloading.use import Use

_SLACK = 64

SPAN = 1 << 32
"""Places between two ranks: of two chunks of one rank the deeper one comes first."""


class Lru:
    """See ``order.Order``.

    Once chunks in ``_moved`` have been put into it, the heap has the place of every idle chunk, and places
    that are out of date.

    Args:
        idle: chunks that may go.

    Attributes:
        places: of the chunks that are there, ``rank * SPAN - depth``: who has the lowest goes first.
    """

    def __init__(self, idle: Set[int]) -> None:
        self.idle = idle
        self.places: dict[int, int] = {}
        self._at: dict[int, int] = {}
        self._heap: list[int] = []
        self._moved: set[int] = set()
        self._last = 0

    def _rank(self, use: Use) -> int:
        if not use.rank:
            self._last += 1
            use.rank = self._last
        return use.rank

    def missed(self, names: Sequence[int]) -> None:
        """Nothing is remembered of what is not there."""

    def met(self, names: Sequence[int], use: Use) -> None:
        """See ``Order``; who is ranked higher keeps that."""
        places, moved, depths = self.places, self._moved, use.depths
        after = self._rank(use) * SPAN
        for name in names:
            known = places.get(name)
            if known is not None and known < after - depths[name]:
                places[name] = after - depths[name]
                moved.add(name)

    def insert(self, names: Sequence[int], use: Use) -> None:
        """See ``Order``."""
        after, depths = self._rank(use) * SPAN, use.depths
        for name in names:
            self.places[name] = after - depths[name]

    def settled(self, names: Iterable[int]) -> None:
        """See ``Order``."""
        self._moved.update(names)

    def ended(self, use: Use) -> None:
        """See ``Order``."""
        places, last = self.places, self._last
        there = [name for name in reversed(use.in_order) if name in places]
        for name in there:
            last += 1
            places[name] = last * SPAN
        self._last = last
        self._moved.update(there)

    def _catch_up(self) -> None:
        """Put into the heap what has moved."""
        heap, places, at = self._heap, self.places, self._at
        moved = self._moved & self.idle
        self._moved.clear()
        if len(heap) + len(moved) > 2 * len(self.idle) + _SLACK:
            self._at = {places[name]: name for name in self.idle}
            heap[:] = self._at
            heapify(heap)
            return
        for name in moved:
            place = places[name]
            at[place] = name
            heappush(heap, place)

    def evict(self, count: int, keep: Collection[int]) -> list[int] | None:
        """See ``Order``."""
        self._catch_up()
        heap, places, at, idle = self._heap, self.places, self._at, self.idle
        going: dict[int, int] = {}
        kept: dict[int, int] = {}
        while heap and len(going) < count:
            place = heappop(heap)
            name = at.pop(place, None)
            if name is None or name not in idle or places[name] != place:
                continue
            if name in keep:
                kept[name] = place
            else:
                going[name] = place
        enough = len(going) == count
        if not enough:
            kept.update(going)
        for name, place in kept.items():
            at[place] = name
            heappush(heap, place)
        if not enough:
            return None
        for name in going:
            del places[name]
        return list(going)
