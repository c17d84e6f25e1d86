"""The strips of groups with one table: look-up, publication, holding, eviction.

A look-up takes, for each member, the lowest strip of a pile that has it. Where holders, coverage or members
begin to differ, piles and strips are cut.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import attrgetter, itemgetter

from kvplan.engine.blocks import BlockPool
from kvplan.engine.content import Content
from kvplan.engine.hybrid.pieces import Piece, Tail, cut_off
from kvplan.engine.hybrid.strips import Batch, Line, Pile, Strip, alike


class StripIndex:
    """The published blocks of groups with one table.

    Args:
        width: how many groups.
    """

    def __init__(self, block_size: int, width: int, pool: BlockPool) -> None:
        self.block_size = block_size
        self.width = width
        self.pool = pool
        self.lines: dict[int, Line] = {}
        self._stamp = 0

    # -- looking ----------------------------------------------------------------------------------------

    def run(self, content: Content, stop: int, most: int) -> tuple[int, int]:
        """The right-most run of blocks before ``stop`` that every member has, its last ``most`` at most."""
        size, ends, lines = self.block_size, content.ends, self.lines
        end = 0
        number = bisect_left(ends, stop * size)
        while number >= 0:
            low = ends[number - 1] // size if number else 0
            line = lines.get(content.line(number)) if stop > low else None
            if line is not None:
                for at in range(line.at(stop - 1), -1, -1):
                    pile = line.piles[at]
                    reach, whole = min(pile[0].stop, stop), self._lowest(pile)
                    if end and (reach < stop or not whole):
                        return stop, end
                    stop = pile[0].start
                    if not whole:
                        continue
                    end = end or reach
                    if end - stop >= most:
                        return end - most, end
            if stop > low:
                if end:
                    return stop, end
                stop = low
            number -= 1
        return stop, end

    def find(self, content: Content, start: int, stop: int) -> Tail:
        """Blocks ``start .. stop``, which every member has."""
        pieces: list[Piece] = []
        unheld = 0
        for key, first, last in content.lines(start, stop, self.block_size):
            line = self.lines[key]
            for pile in line.piles[line.at(first) : line.at(last - 1) + 1]:
                begin, end = max(first, pile[0].start), min(last, pile[0].stop)
                for strip, low, high in self._lowest(pile):
                    if strip.ref == 0:
                        unheld += (end - begin) * (high - low)
                    if pieces and pieces[-1].goes_on(strip, begin, low, high):
                        pieces[-1].stop = end
                    else:
                        pieces.append(Piece(line, begin, end, low, high, strip.stamp))
        return Tail(pieces, unheld)

    def _lowest(self, pile: Pile) -> list[tuple[Strip, int, int]]:
        """The strips that a look-up takes, each with the members it is taken for; none if one has nothing."""
        first = pile[0]
        if first.low == 0 and first.high == self.width:
            return [(first, 0, self.width)]
        found, missing = [], [(0, self.width)]
        for strip in pile:
            left = []
            for low, high in missing:
                begin, end = max(low, strip.low), min(high, strip.high)
                if begin >= end:
                    left.append((low, high))
                    continue
                found.append((strip, begin, end))
                left += [part for part in ((low, begin), (end, high)) if part[0] < part[1]]
            missing = left
        return [] if missing else sorted(found, key=itemgetter(1))

    # -- publishing and holding -------------------------------------------------------------------------

    def publish(self, content: Content, start: int, stop: int) -> list[Piece]:
        """A request, which holds them, makes its blocks ``start .. stop`` findable, on top of any there."""
        self._stamp += 1
        return [
            self._lay(key, first, last) for key, first, last in content.lines(start, stop, self.block_size)
        ]

    def _lay(self, key: int, start: int, stop: int) -> Piece:
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = Line(key)
        width, stamp = self.width, self._stamp
        first, last = line.between(start, stop)
        laid: list[Pile] = []
        place = start
        for pile in line.piles[first:last]:
            begin, end = pile[0].start, pile[0].stop
            if place < begin:
                laid.append([Strip(line, place, begin, 0, width, stamp, 1)])
            laid.append([*pile, Strip(line, begin, end, 0, width, stamp, 1)])
            place = end
        if place < stop:
            laid.append([Strip(line, place, stop, 0, width, stamp, 1)])
        line.replace(first, last, laid)
        return Piece(line, start, stop, 0, width, stamp)

    def hold(self, pieces: Sequence[Piece]) -> None:
        """One more request holds these."""
        pool = self.pool
        for piece in pieces:
            alone = True
            for strip in self._strips(piece):
                if strip.ref == 0:
                    batch = strip.batch
                    assert batch is not None
                    strip.batch = None
                    batch.strips.remove(strip)
                    batch.places -= strip.stop - strip.start
                    if batch.strips:
                        pool.cached -= strip.blocks
                    else:
                        pool.remove(batch, strip.blocks)  # type: ignore[arg-type]
                else:
                    alone = False
                strip.ref += 1
            if alone and (piece.low, piece.high) == (0, self.width):
                self._join(piece)

    def _join(self, piece: Piece) -> None:
        """Make one strip of what one request, and nobody else, holds again, where nothing lies with it."""
        line = piece.line
        first, last = line.between(piece.start, piece.stop)
        piles = line.piles[first:last]
        if len(piles) > 1 and all(len(pile) == 1 for pile in piles):
            piles[0][0].stop = piece.stop
            line.replace(first, last, piles[:1])

    def _strips(self, piece: Piece) -> Iterator[Strip]:
        """The strips of a piece, the last one first, cut to its blocks and members."""
        stamp, low, high = piece.stamp, piece.low, piece.high
        first, last = piece.line.between(piece.start, piece.stop)
        for pile in reversed(piece.line.piles[first:last]):
            for strip in tuple(pile):
                if strip.stamp != stamp or strip.high <= low or strip.low >= high:
                    continue
                if low <= strip.low and strip.high <= high:
                    yield strip
                    continue
                lowest, top = max(low, strip.low), min(high, strip.high)
                if strip.batch is not None:
                    self._part_members(strip.batch)
                else:
                    for member in range(strip.high - 1, strip.low, -1):
                        strip.beyond(member)
                yield from [one for one in pile if one.stamp == stamp and lowest <= one.low < top]

    def let_go(self, pieces: Sequence[Piece]) -> None:
        """One request fewer holds these, in rising order; what nobody holds goes to the end of the queue."""
        free = []
        for piece in reversed(pieces):
            for strip in self._strips(piece):
                strip.ref -= 1
                if strip.ref == 0:
                    free.append(strip)
        if not free:
            return
        first = free[0]
        if all(strip.low == first.low and strip.high == first.high for strip in free):
            self._append(free)
            return
        free.sort(key=attrgetter("start"), reverse=True)
        for strip in tuple(free):
            free += [strip.beyond(member) for member in range(strip.high - 1, strip.low, -1)]
        for member in range(self.width):
            slices = [strip for strip in free if strip.low == member]
            if slices:
                self._append(sorted(slices, key=attrgetter("start"), reverse=True))

    def let_go_first(self, pieces: list[Piece]) -> None:
        """One request fewer holds the first block of these.

        Most often nobody else does, and nothing lies with it: a window leaves what its request published.
        """
        piece = pieces[0]
        line, place = piece.line, piece.start
        at = line.at(place)
        pile = line.piles[at]
        strip = pile[0]
        if len(pile) > 1 or strip.ref > 1 or strip.start < place or strip.stop == place + 1:
            self.let_go(cut_off(pieces, place + 1))
            return
        strip.start = line.starts[at] = piece.start = place + 1
        first = Strip(line, place, place + 1, strip.low, strip.high, strip.stamp, 0)
        line.insert(at, [first])
        self._append([first])

    def _append(self, strips: list[Strip]) -> None:
        batch = Batch(self, strips)
        self.pool.append(batch, batch.blocks)  # type: ignore[arg-type]

    # -- letting go -------------------------------------------------------------------------------------

    def evict(self, batch: Batch, most: int) -> int:
        """Evict a batch, or its first blocks up to ``most`` if it has more; returns how many went."""
        pool, strips = self.pool, batch.strips
        places, members = batch.places, strips[0].high - strips[0].low
        whole = min(most // places, members)
        if whole == members:
            pool.remove(batch, places * members)  # type: ignore[arg-type]
            for strip in strips:
                self._drop(strip)
            return places * members
        if whole:
            for strip in strips:
                strip.low += whole
            pool.cached -= places * whole
            return places * whole
        if members > 1:
            self._part_first(batch)
        pool.cached -= most
        batch.places -= most
        left = most
        while left:
            last = strips[0]
            length = last.stop - last.start
            if length > left:
                self._shorten(last, last.stop - left)
                break
            strips.remove(last)
            self._drop(last)
            left -= length
        return most

    def _shorten(self, strip: Strip, place: int) -> None:
        """Evict its blocks from ``place`` on.

        What lies with it is cut there; but where the same goes on behind, as it does if blocks go one by one,
        that begins so much earlier.
        """
        line = strip.line
        at = line.at(strip.start)
        others = [other for other in line.piles[at] if other is not strip]
        above = line.piles[at + 1] if at + 1 < len(line.piles) else []
        if others and above and above[0].start == strip.stop and alike(others, above):
            for lower, upper in zip(others, above, strict=True):
                lower.stop = upper.start = place
            line.starts[at + 1] = place
        elif others:
            line.insert(at + 1, [other.upper(place) for other in others])
        strip.stop = place

    def _part_first(self, batch: Batch) -> Batch:
        """Leave a batch its first member; returns that of the others, which follows in the queue."""
        rest = Batch(self, [strip.beyond(strip.low + 1) for strip in batch.strips])
        self.pool.insert_after(rest, batch)  # type: ignore[arg-type]
        return rest

    def _part_members(self, batch: Batch) -> None:
        """Make one batch a member of it."""
        while batch.strips[0].high - batch.strips[0].low > 1:
            batch = self._part_first(batch)

    def _drop(self, strip: Strip) -> None:
        line = strip.line
        at = line.at(strip.start)
        pile = line.piles[at]
        pile.remove(strip)
        if not pile:
            del line.piles[at], line.starts[at]
            if not line.piles:
                del self.lines[line.key]
