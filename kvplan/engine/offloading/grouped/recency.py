"""Least recently used first, chunk by chunk; the rules are those of ``offloading.lru``.

Chunks of a request that goes on share a rank, and the end of its prompt goes before its beginning, of several
groups the first before the others. When it ends, each chunk gets a rank of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from kvplan.engine.offloading.grouped.chunk import IDLE, Key, Use

Place: TypeAlias = tuple[int, int, Key]
"""Rank, minus the token it ends with, and the chunk."""

_SPARE = 64
"""Entries of the heap that may be outdated however few chunks there are."""


class Lru:
    """See ``order.ChunkOrder``.

    Attributes:
        places: of chunks that are there.
    """

    def __init__(self, readers: dict[Key, int]) -> None:
        self.readers = readers
        self.places: dict[Key, Place] = {}
        self._heap: list[Place] = []
        self._ranks = 0

    def _rank(self, use: Use) -> int:
        if not use.rank:
            self._ranks += 1
            use.rank = self._ranks
        return use.rank

    def _put(self, key: Key, place: Place) -> None:
        self.places[key] = place
        heap = self._heap
        heappush(heap, place)
        if len(heap) > 4 * len(self.places) + _SPARE:
            heap[:] = self.places.values()
            heapify(heap)

    def missed(self, keys: Sequence[Key]) -> None:
        """Nothing is remembered of what is not there."""

    def met(self, use: Use, keys: Sequence[Key]) -> None:
        """See ``ChunkOrder``; what goes later keeps its place."""
        rank = self._rank(use)
        for key in keys:
            there = self.places.get(key)
            if there is not None:
                place = (rank, -use.places[key], key)
                if there < place:
                    self._put(key, place)

    def insert(self, use: Use, key: Key) -> None:
        """See ``ChunkOrder``."""
        self._put(key, (self._rank(use), -use.places[key], key))

    def ended(self, use: Use) -> None:
        """See ``ChunkOrder``."""
        for key in use.from_the_end():
            if key in self.places:
                self._ranks += 1
                self._put(key, (self._ranks, 0, key))

    def evict(self, chunks: int, keep: Collection[Key]) -> list[Key] | None:
        """See ``ChunkOrder``."""
        heap, places = self._heap, self.places
        going: list[Place] = []
        staying: list[Place] = []
        while heap and len(going) < chunks:
            place = heappop(heap)
            key = place[2]
            if places.get(key) != place or (going and going[-1] == place):
                continue
            if self.readers[key] == IDLE and key not in keep:
                going.append(place)
            else:
                staying.append(place)
        found = len(going) == chunks
        for place in staying if found else (*staying, *going):
            heappush(heap, place)
        if not found:
            return None
        for place in going:
            del places[place[2]]
        return [place[2] for place in going]

    def rows(self) -> list[list[Key]]:
        """See ``ChunkOrder``."""
        return [sorted(self.places, key=self.places.__getitem__)]
