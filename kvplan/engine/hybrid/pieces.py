"""What one request holds of what is published, or may hold: pieces of strips.

A piece says which blocks of which publication, and not which strips these are by now: strips are cut and
joined again while it is held.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.engine.hybrid.strips import Batch, Line, Strip


class Piece:
    """Blocks ``start .. stop`` of a line: one publication's, of members ``low .. high``."""

    __slots__ = ("high", "line", "low", "stamp", "start", "stop")

    def __init__(self, line: Line, start: int, stop: int, low: int, high: int, stamp: int) -> None:
        self.line = line
        self.start = start
        self.stop = stop
        self.low = low
        self.high = high
        self.stamp = stamp

    def goes_on(self, strip: Strip, start: int, low: int, high: int) -> bool:
        """Whether the same publication's next blocks, of the same members, are those of a strip."""
        return (self.line is strip.line and self.stop == start) and (self.stamp, self.low, self.high) == (
            strip.stamp, low, high
        )  # fmt: skip

    def beyond(self, place: int) -> Piece:
        """Cut off what begins with block ``place``."""
        cut = Piece(self.line, place, self.stop, self.low, self.high, self.stamp)
        self.stop = place
        return cut


def cut_off(pieces: list[Piece], place: int) -> list[Piece]:
    """Take out what lies before block ``place``."""
    going = [piece for piece in pieces if piece.start < place]
    staying = [piece.beyond(place) for piece in going if piece.stop > place]
    pieces[: len(going)] = staying
    return going


class Tail:
    """The last blocks before the end of a hit, as many as a group needs.

    Attributes:
        pieces: in rising order, for each member those published first.
        unheld: blocks that are in the free queue and would leave it.
    """

    __slots__ = ("pieces", "unheld")

    def __init__(self, pieces: list[Piece], unheld: int) -> None:
        self.pieces = pieces
        self.unheld = unheld

    def batches(self) -> Iterator[Batch]:
        """Where the unheld blocks stand in the free queue."""
        for piece in self.pieces:
            line = piece.line
            for pile in line.piles[max(line.at(piece.start), 0) : line.at(piece.stop - 1) + 1]:
                yield from [strip.batch for strip in pile if strip.stamp == piece.stamp and strip.batch]
