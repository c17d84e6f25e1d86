"""A linear address space of blocks, in which a request's blocks must lie side by side.

Two kinds: *holes* in address order, searched first fit or best fit; and the *buddy* system, in which
regions are powers of two at multiples of their size.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Literal, Protocol, TypeAlias

Fit: TypeAlias = Literal["first", "best", "buddy"]


class AddressSpace(Protocol):
    """Regions ``start .. start + size`` of blocks. ``free`` blocks belong to nobody."""

    free: int

    def rounded(self, size: int) -> int:
        """Blocks a region of at least ``size`` blocks takes."""
        ...

    def has(self, size: int) -> bool:
        """Whether a region of ``size`` (rounded) blocks can be allocated."""
        ...

    def allocate(self, size: int) -> int | None:
        """Take a region of ``size`` (rounded) blocks; its start, or ``None`` and nothing changed."""
        ...

    def extend(self, start: int, size: int, more: int) -> bool:
        """Grow a region in place to ``more`` (rounded) blocks, or change nothing."""
        ...

    def release(self, start: int, size: int) -> None:
        """Give a region back."""
        ...

    def largest(self) -> int:
        """Blocks of the largest region that can be allocated."""
        ...


class Holes:
    """Free ranges in address order; ``best`` takes the smallest that is large enough, else the first."""

    def __init__(self, blocks: int, *, best: bool = False) -> None:
        self.free = blocks
        self._best = best
        self._starts = [0]
        self._sizes = {0: blocks}

    def rounded(self, size: int) -> int:
        """As many."""
        return size

    def _find(self, size: int) -> int | None:
        if size > self.free:
            return None
        sizes = self._sizes
        if self._best:
            large = [(hole, start) for start, hole in sizes.items() if hole >= size]
            return min(large)[1] if large else None
        return next((start for start in self._starts if sizes[start] >= size), None)

    def has(self, size: int) -> bool:
        """Whether a hole is large enough."""
        return self._find(size) is not None

    def allocate(self, size: int) -> int | None:
        """The beginning of a hole."""
        start = self._find(size)
        if start is not None:
            self._take(start, size)
        return start

    def _take(self, start: int, size: int) -> None:
        """Take the beginning of the hole at ``start``."""
        left = self._sizes.pop(start) - size
        del self._starts[bisect_left(self._starts, start)]
        if left:
            self._sizes[start + size] = left
            insort(self._starts, start + size)
        self.free -= size

    def extend(self, start: int, size: int, more: int) -> bool:
        """From the hole behind the region, if there is one that is large enough."""
        behind = start + size
        if self._sizes.get(behind, 0) < more - size:
            return False
        self._take(behind, more - size)
        return True

    def release(self, start: int, size: int) -> None:
        """The region becomes a hole, together with the holes it touches."""
        self.free += size
        behind = self._sizes.pop(start + size, None)
        place = bisect_left(self._starts, start)
        if behind is not None:
            size += behind
            del self._starts[place]
        if place:
            before = self._starts[place - 1]
            if before + self._sizes[before] == start:
                self._sizes[before] += size
                return
        self._starts.insert(place, start)
        self._sizes[start] = size

    def largest(self) -> int:
        """The largest hole."""
        return max(self._sizes.values(), default=0)


class Buddies:
    """Powers of two. A space that is none is dealt into powers of two, the largest first."""

    def __init__(self, blocks: int) -> None:
        self.free = blocks
        self._holes: dict[int, list[int]] = {}
        start = 0
        while blocks:
            size = 1 << blocks.bit_length() - 1
            self._holes[size] = [start]
            start += size
            blocks -= size

    def rounded(self, size: int) -> int:
        """The next power of two."""
        return 1 << (size - 1).bit_length()

    def _smallest(self, size: int) -> int | None:
        """The smallest size of hole that is large enough."""
        return min((found for found, holes in self._holes.items() if holes and found >= size), default=None)

    def has(self, size: int) -> bool:
        """Whether a hole is large enough."""
        return self._smallest(size) is not None

    def allocate(self, size: int) -> int | None:
        """Halve the smallest hole that is large enough, the one at the lowest address."""
        found = self._smallest(size)
        if found is None:
            return None
        start = self._holes[found].pop(0)
        while found > size:
            found //= 2
            insort(self._holes.setdefault(found, []), start + found)
        self.free -= size
        return start

    def extend(self, start: int, size: int, more: int) -> bool:
        """By the upper halves, if the region lies at the right place and they are free."""
        if start % more:
            return False
        halves = []
        half = size
        while half < more:
            if start + half not in self._holes.get(half, ()):
                return False
            halves.append(half)
            half *= 2
        for half in halves:
            self._holes[half].remove(start + half)
        self.free -= more - size
        return True

    def release(self, start: int, size: int) -> None:
        """Merge with free buddies as far as possible."""
        self.free += size
        while True:
            holes = self._holes.setdefault(size, [])
            buddy = start ^ size
            place = bisect_left(holes, buddy)
            if place == len(holes) or holes[place] != buddy:
                insort(holes, start)
                return
            del holes[place]
            start = min(start, buddy)
            size *= 2

    def largest(self) -> int:
        """The largest hole."""
        return max((size for size, holes in self._holes.items() if holes), default=0)


def address_space(fit: Fit, blocks: int) -> AddressSpace:
    """A space of so many blocks, all free."""
    return Buddies(blocks) if fit == "buddy" else Holes(blocks, best=fit == "best")
