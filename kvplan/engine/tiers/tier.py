"""One tier: how many blocks it has, and which go first.

Least recently used first; of blocks used together the end of the sequence goes before its beginning, as in
vLLM's offloading manager. Time is a count of uses. Blocks that swapped requests hold are not part of the
cache and cannot be evicted.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from kvplan.engine.tiers.line import Batch
from kvplan.engine.tiers.residency import Place, Run


class Tier:
    """Blocks of one tier. ``cached + reserved + free == capacity``.

    Attributes:
        index: its position in ``Run.places``; 0 is next to the device.
        cached: blocks of the prefix cache; reserved: blocks of swapped requests; peak: most of both.
        stored, evicted, hits: blocks that came, went for want of room, and were used from here.
    """

    __slots__ = (
        "_order", "_tidy", "cached", "capacity", "evicted", "hits", "index", "name", "peak", "reserved",
        "stored",
    )  # fmt: skip

    def __init__(self, name: str, index: int, capacity: int) -> None:
        self.name = name
        self.index = index
        self.capacity = capacity
        self.cached = self.reserved = self.peak = 0
        self.stored = self.evicted = self.hits = 0
        self._order: list[tuple[int, int, int, Place]] = []
        self._tidy = 64

    @property
    def free(self) -> int:
        """Blocks nothing is in; negative while more has been put in than has been evicted."""
        return self.capacity - self.cached - self.reserved

    def place(self, run: Run) -> Place | None:
        """The run's place here."""
        return run.places[self.index]

    def put(self, run: Run, stamp: int, batch: Batch) -> None:
        """Take in a run that is not here."""
        place = run.places[self.index] = Place(run, stamp, batch)
        self.cached += run.blocks
        self.stored += run.blocks
        self.enter(place)

    def use(self, place: Place, stamp: int) -> None:
        """It was used now."""
        place.stamp = stamp
        self.enter(place)

    def enter(self, place: Place) -> None:
        """Note a place's position in the order; earlier notes of it are void."""
        order = self._order
        heappush(order, (place.stamp, -place.run.end, id(place), place))
        if len(order) > self._tidy:
            self._order = [entry for entry in order if self._valid(entry)]
            heapify(self._order)
            self._tidy = 64 + 4 * len(self._order)

    def _valid(self, entry: tuple[int, int, int, Place]) -> bool:
        stamp, end, _, place = entry
        run = place.run
        return place.stamp == stamp and run.end == -end and run.places[self.index] is place

    def oldest(self) -> Place:
        """The place that goes first; there must be one."""
        order = self._order
        index = self.index
        while True:
            stamp, end, _, place = heappop(order)
            run = place.run
            if place.stamp == stamp and run.end == -end and run.places[index] is place:
                return place

    def drop(self, run: Run) -> None:
        """Evict a run."""
        run.places[self.index] = None
        self.cached -= run.blocks
        self.evicted += run.blocks

    def settle(self) -> None:
        """An operation is over: what is in it now counts for the peak."""
        assert self.free >= 0, f"{self.name}: {self.cached} + {self.reserved} of {self.capacity} blocks"
        self.peak = max(self.peak, self.cached + self.reserved)
