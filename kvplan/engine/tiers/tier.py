"""One tier: how many blocks it has, and which go first.

Least recently used first; of blocks used together the end of the sequence goes before its beginning, as in
vLLM's offloading manager. Time is a count of uses. Blocks that swapped requests hold are not part of the
cache and cannot be evicted.

The order is a linked list. What is used now goes to its end, and runs used together are told from the
beginning of the sequence on, so each is put before those that are there with the same count.
"""

from __future__ import annotations

from kvplan.engine.tiers.line import Batch
from kvplan.engine.tiers.residency import Place, Run


class Tier:
    """Blocks of one tier. ``cached + reserved + free == capacity``.

    Attributes:
        index: its position in ``Run.places``; 0 is next to the device.
        cached: blocks of the prefix cache; reserved: blocks of swapped requests; peak: most of both.
        stored, evicted, hits: blocks that came, went for want of room, and were used from here.
        oldest: the place that goes first.
    """

    __slots__ = (
        "_latest", "_newest", "cached", "capacity", "evicted", "hits", "index", "name", "oldest", "peak",
        "reserved", "stored",
    )  # fmt: skip

    def __init__(self, name: str, index: int, capacity: int) -> None:
        self.name = name
        self.index = index
        self.capacity = capacity
        self.cached = self.reserved = self.peak = 0
        self.stored = self.evicted = self.hits = 0
        self.oldest: Place | None = None
        self._newest: Place | None = None
        self._latest: Place | None = None
        """The first of those that were used last."""

    @property
    def free(self) -> int:
        """Blocks nothing is in; negative while more has been put in than has been evicted."""
        return self.capacity - self.cached - self.reserved

    def put(self, run: Run, stamp: int, batch: Batch) -> None:
        """Take in a run that is not here, as used now."""
        place = run.places[self.index] = Place(run, stamp, batch)
        blocks = run.end - run.start
        self.cached += blocks
        self.stored += blocks
        self._enter(place)

    def use(self, place: Place, stamp: int) -> None:
        """It was used now."""
        self.leave(place)
        place.stamp = stamp
        self._enter(place)

    def drop(self, place: Place) -> None:
        """Evict the run of this place."""
        run = place.run
        blocks = run.end - run.start
        run.places[self.index] = None
        self.cached -= blocks
        self.evicted += blocks
        self.leave(place)

    def settle(self) -> None:
        """An operation is over: what is in it now counts for the peak."""
        used = self.cached + self.reserved
        assert used <= self.capacity, (
            f"{self.name}: {self.cached} + {self.reserved} of {self.capacity} blocks"
        )
        if used > self.peak:
            self.peak = used

    # -- the order --------------------------------------------------------------------------------------

    def _enter(self, place: Place) -> None:
        newest, latest = self._newest, self._latest
        if newest is None or latest is None or newest.stamp != place.stamp:
            place.before, place.after = newest, None
            if newest is None:
                self.oldest = place
            else:
                newest.after = place
            self._newest = place
        else:
            before = latest.before
            place.before, place.after = before, latest
            latest.before = place
            if before is None:
                self.oldest = place
            else:
                before.after = place
        self._latest = place

    def part(self, upper: Place, lower: Place) -> None:
        """The beginning of a run that was split goes next after the end of it."""
        following = lower.after
        upper.before, upper.after = lower, following
        lower.after = upper
        if following is None:
            self._newest = upper
        else:
            following.before = upper

    def leave(self, place: Place) -> None:
        """Take a place out of the order."""
        before, after = place.before, place.after
        if before is None:
            self.oldest = after
        else:
            before.after = after
        if after is None:
            self._newest = before
        else:
            after.before = before
        if self._latest is place:
            self._latest = after
