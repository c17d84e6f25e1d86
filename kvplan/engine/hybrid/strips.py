"""What window and state groups have published: strips of blocks instead of blocks.

A *line* is a prefix of content and all that goes on from it by consecutive tokens; whatever shares a prefix
up to a block of one line shares the line. Blocks are numbered along it, and a *strip* is a stretch of blocks
that one request published in groups with one table (its *members*), all held by the same requests. Strips
with the same blocks lie in one *pile*, the one published first at the bottom.

In the free queue stand *batches*: strips that one request let go of at one time. Of these one member is
evicted after the other, of each the end of the sequence first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from kvplan.engine.blocks import Segment

if TYPE_CHECKING:
    from kvplan.engine.hybrid.strip_index import StripIndex


class Strip:
    """Blocks ``start .. stop`` of a line, of members ``low .. high``; ``ref`` requests hold them.

    Attributes:
        stamp: of the publication they come from.
        batch: where it stands in the free queue while nobody holds it.
    """

    __slots__ = ("batch", "high", "line", "low", "ref", "stamp", "start", "stop")

    def __init__(self, line: Line, start: int, stop: int, low: int, high: int, stamp: int, ref: int) -> None:
        self.line = line
        self.start = start
        self.stop = stop
        self.low = low
        self.high = high
        self.stamp = stamp
        self.ref = ref
        self.batch: Batch | None = None

    @property
    def blocks(self) -> int:
        """Blocks of all its members."""
        return (self.stop - self.start) * (self.high - self.low)

    def upper(self, place: int) -> Strip:
        """Cut off what begins with block ``place``; in the free queue that comes first."""
        cut = Strip(self.line, place, self.stop, self.low, self.high, self.stamp, self.ref)
        self.stop = place
        batch = self.batch
        if batch is not None:
            cut.batch = batch
            batch.strips.insert(batch.strips.index(self), cut)
        return cut

    def beyond(self, member: int) -> Strip:
        """Cut off the members from ``member`` on, in the pile too; both are in no batch any more."""
        cut = Strip(self.line, self.start, self.stop, member, self.high, self.stamp, self.ref)
        self.high = member
        pile = self.line.piles[self.line.at(self.start)]
        pile.insert(pile.index(self) + 1, cut)
        return cut


Pile: TypeAlias = list[Strip]


def alike(lower: Pile, upper: Pile) -> bool:
    """Whether piles next to each other are held by the same requests and stand in the same batches."""
    return len(lower) == len(upper) and all(
        (one.stamp, one.low, one.high, one.ref) == (two.stamp, two.low, two.high, two.ref)
        and one.batch is two.batch
        for one, two in zip(lower, upper, strict=True)
    )


class Line:
    """The piles of one line, in rising order, and where each begins."""

    __slots__ = ("key", "piles", "starts")

    def __init__(self, key: int) -> None:
        self.key = key
        self.piles: list[Pile] = []
        self.starts: list[int] = []

    def at(self, place: int) -> int:
        """Position of the last pile that begins with block ``place`` or before, or -1."""
        return bisect_right(self.starts, place) - 1

    def insert(self, at: int, pile: Pile) -> None:
        """Let a pile be the one at position ``at``."""
        self.piles.insert(at, pile)
        self.starts.insert(at, pile[0].start)

    def replace(self, first: int, last: int, piles: Sequence[Pile]) -> None:
        """Let these piles stand where those at positions ``first .. last`` did."""
        self.piles[first:last] = piles
        self.starts[first:last] = [pile[0].start for pile in piles]

    def between(self, start: int, stop: int) -> tuple[int, int]:
        """Positions of the piles with blocks ``start .. stop``, once they are cut to these."""
        piles = self.piles
        first = self.at(start)
        if first < 0:
            first = 0
        elif piles[first][0].start < start:
            if start < piles[first][0].stop:
                self._cut(first, start)
            first += 1
        last = bisect_left(self.starts, stop, first)
        if last > first and piles[last - 1][0].stop > stop:
            self._cut(last - 1, stop)
        return first, last

    def _cut(self, at: int, place: int) -> None:
        """Let a pile end before block ``place``, and another begin there."""
        self.insert(at + 1, [strip.upper(place) for strip in self.piles[at]])


class Batch:
    """Strips with the same members that were let go of together, the last one first.

    It stands in the same queue as segments do, under the same attributes.

    Attributes:
        places: blocks of each member.
    """

    __slots__ = ("after", "before", "index", "places", "strips")

    def __init__(self, index: StripIndex, strips: list[Strip]) -> None:
        self.index = index
        self.strips = strips
        self.before: Segment | None = None
        self.after: Segment | None = None
        places = 0
        for strip in strips:
            strip.batch = self
            places += strip.stop - strip.start
        self.places = places

    @property
    def blocks(self) -> int:
        """Blocks of all members."""
        return self.places * (self.strips[0].high - self.strips[0].low)
