"""What the host has of all groups: chunks, who reads and writes them, and which go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvplan.engine.numbered.memo import Memos
from kvplan.engine.offloading.grouped.chunk import ABSENT, IDLE, PENDING, Key, Use
from kvplan.engine.offloading.grouped.order import make_order
from kvplan.engine.offloading.memory import HostMemory
from kvplan.engine.offloading.order import EvictionPolicy


class HostChunks(HostMemory):
    """Chunks in host memory, one by one; the rules are those of ``offloading.cache``.

    Args:
        capacity: chunks, whatever group they are of: all blocks have the same number of bytes.
        policy: which go first.

    Attributes:
        memos: what look-ups found, as long as it holds.
    """

    def __init__(self, capacity: int, policy: EvictionPolicy) -> None:
        super().__init__(capacity)
        self._readers: dict[Key, int] = {}
        self.memos: Memos[int] = Memos()
        self.order = make_order(policy, capacity, self._readers)

    def readers(self, key: Key) -> int:
        """How many loads read a chunk, or ``ABSENT``, or ``PENDING``."""
        return self._readers.get(key, ABSENT)

    def pin(self, use: Use, places: dict[Key, int]) -> None:
        """A load reads these chunks, which are there; they do not go meanwhile."""
        self.version += 1
        for key in places:
            readers = self._readers[key]
            assert readers >= IDLE, "a load reads what is there"
            if readers == IDLE:
                self.idle -= 1
                self.read += 1
            self._readers[key] = readers + 1
            self.memos.changed(key)
        self._meet(use, places, places)

    def unpin(self, keys: Iterable[Key]) -> None:
        """A load has ended."""
        self.version += 1
        for key in keys:
            self._readers[key] -= 1
            self.memos.changed(key)
            if self._readers[key] == IDLE:
                self.read -= 1
                self.idle += 1

    def offer(self, use: Use, places: dict[Key, int]) -> list[Key] | None:
        """Take in those of some chunks that are missing; each is given with the token that it ends with.

        Returns the missing ones, which are pending now; None where they do not all find room.
        """
        states = {key: self.readers(key) for key in places}
        missing = [key for key, readers in states.items() if readers == ABSENT]
        ready = [key for key, readers in states.items() if readers >= IDLE]
        unknown = [key for key in missing if key not in use.missed]
        if unknown:
            self.order.missed(unknown)
            use.missed.update(unknown)
        self._meet(use, {key: place for key, place in places.items() if states[key] != PENDING}, ready)
        excess = len(missing) + self.resident - self.capacity
        if missing and excess > 0:
            going = self.order.evict(excess, places) if excess <= self.idle else None
            if going is None:
                return None
            for key in going:
                del self._readers[key]
                self.memos.changed(key)
            self.idle -= excess
            self.evicted += excess
        if missing:
            self.version += 1
            for key in missing:
                self._readers[key] = PENDING
                self.memos.changed(key)
                self.order.insert(use, key)
            use.inserted.update(missing)
            self.pending += len(missing)
            self.stored += len(missing)
            self.peak = max(self.peak, self.resident)
        return missing

    def written(self, keys: Sequence[Key]) -> None:
        """A store has ended."""
        self.version += 1
        for key in keys:
            self._readers[key] = IDLE
            self.memos.changed(key)
        self.pending -= len(keys)
        self.idle += len(keys)

    def ended(self, use: Use) -> None:
        """A request is over: what it used was used now."""
        self.order.ended(use)

    def _meet(self, use: Use, places: dict[Key, int], ready: Iterable[Key]) -> None:
        new = [key for key in places if key not in use.places]
        if new:
            for key in new:
                use.places[key] = places[key]
            self.order.met(use, new)
        use.reused.update(key for key in ready if key not in use.inserted)
