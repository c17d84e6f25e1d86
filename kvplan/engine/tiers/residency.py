"""Which contents are where, in runs of blocks.

A tree over block contents, as the prefix index of the device is one, but a run may be in no tier: the front
of a path whose tail alone was written down, because the device still had the front. Runs that are nowhere
and lead to nothing are removed. A run is in a tier wholly or not at all; where that would differ it is split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.tiers.line import PENDING, Batch

_EMPTY = Content((), ())


class Place:
    """A run in one tier: when it was last used, and the transfer that brings or brought it.

    ``before`` and ``after`` are its neighbours in the order in which the tier evicts.
    """

    __slots__ = ("after", "batch", "before", "run", "stamp")

    def __init__(self, run: Run, stamp: int, batch: Batch) -> None:
        self.run = run
        self.stamp = stamp
        self.batch = batch
        self.before: Place | None = None
        self.after: Place | None = None


class Run:
    """Blocks ``start .. end`` of ``content`` after the parent's; ``places`` has an entry for every tier."""

    __slots__ = ("children", "content", "end", "key", "parent", "places", "start")

    def __init__(
        self, content: Content, start: int, end: int, parent: Run | None, key: BlockKey, tiers: int
    ) -> None:
        self.content = content
        self.start = start
        self.end = end
        self.parent = parent
        self.key = key
        self.children: dict[BlockKey, Run] = {}
        self.places: list[Place | None] = [None] * tiers

    @property
    def blocks(self) -> int:
        """How many."""
        return self.end - self.start

    @property
    def anywhere(self) -> bool:
        """Whether some tier has it."""
        places = self.places
        return places[0] is not None or places[-1] is not None

    def only_in(self, place: Place) -> bool:
        """Whether this is the one place it has."""
        places = self.places
        return (places[0] is place or places[0] is None) and (places[-1] is place or places[-1] is None)


class Residency:
    """The tree; tiers put their places on its runs.

    Attributes:
        on_split: told the upper and the lower part of a run that was cut.
        on_join: told of a run that is about to go into the one below it.
    """

    def __init__(self, block_size: int, tiers: int) -> None:
        self.block_size = block_size
        self.tiers = tiers
        self.root = Run(_EMPTY, 0, 0, None, 0, tiers)
        self.on_split: Callable[[Run, Run], None] = _ignore_split
        self.on_join: Callable[[Run], None] = _ignore_join

    def walk(self, content: Content, limit: int) -> Iterator[tuple[Run, int]]:
        """Runs along the first ``limit`` blocks (which the content must have), each with where it agrees to.

        Only the last one may agree in part.
        """
        size = self.block_size
        run, depth = self.root, 0
        while depth < limit:
            child = run.children.get(content.block_key(depth * size, size))
            if child is None:
                return
            stop = child.end if child.end < limit else limit
            depth = content.agrees_until(child.content, depth * size, stop * size) // size
            yield child, depth
            if depth < child.end:
                return
            run = child

    def known(self, content: Content, start: int, end: int) -> list[Run]:
        """Runs that make up what the tree knows of blocks ``start .. end``, cut to fit."""
        found = []
        for run, agreed in [step for step in self.walk(content, end) if step[1] > start]:
            piece = run if agreed == run.end else self.split(run, agreed - run.start)
            if piece.start < start:
                self.split(piece, start - piece.start)
            found.append(piece)
        return found

    def cover(self, content: Content, start: int, end: int) -> list[Run]:
        """Runs that make up blocks ``start .. end`` exactly; those that are missing are made, also before."""
        size = self.block_size
        found = []
        run, depth = self.root, 0
        while depth < end:
            key = content.block_key(depth * size, size)
            child = run.children.get(key)
            if child is None:
                child = Run(content, depth, start if depth < start else end, run, key, self.tiers)
                run.children[key] = child
            else:
                stop = child.end if child.end < end else end
                agreed = content.agrees_until(child.content, depth * size, stop * size) // size
                if child.start < start < agreed:
                    agreed = start
                if agreed < child.end:
                    child = self.split(child, agreed - child.start)
            depth = child.end
            if child.start >= start:
                found.append(child)
            run = child
        return found

    def split(self, run: Run, keep: int) -> Run:
        """Cut a run after ``keep`` blocks; returns the new upper part, ``run`` stays the lower one."""
        cut = run.start + keep
        parent = run.parent
        assert parent is not None
        upper = Run(run.content, run.start, cut, parent, run.key, self.tiers)
        parent.children[run.key] = upper
        run.parent = upper
        run.start = cut
        run.key = run.content.block_key(cut * self.block_size, self.block_size)
        upper.children[run.key] = run
        for tier, place in enumerate(run.places):
            if place is not None:
                upper.places[tier] = Place(upper, place.stamp, place.batch)
        self.on_split(upper, run)
        return upper

    def join(self, runs: list[Run]) -> None:
        """Make one run of neighbours that are in the same tiers and were last used together."""
        upper: Run | None = None
        for run in runs:
            if upper is not None and run.parent is upper and len(upper.children) == 1 and _alike(upper, run):
                self._absorb(upper, run)
            upper = run

    def _absorb(self, upper: Run, lower: Run) -> None:
        """``lower`` stays, with the blocks of both; its position in the order of every tier is the same."""
        for place, other in zip(lower.places, upper.places, strict=True):
            if place is not None and other is not None and other.batch.done_s > place.batch.done_s:
                place.batch = other.batch
        self.on_join(upper)
        upper.places = [None] * self.tiers
        parent = upper.parent
        assert parent is not None
        lower.start, lower.key, lower.parent = upper.start, upper.key, parent
        parent.children[upper.key] = lower

    def prune(self, run: Run) -> None:
        """Remove the run, and what leads to it, as far as it is nowhere and leads to nothing."""
        while run.parent is not None and not run.children and not run.anywhere:
            del run.parent.children[run.key]
            run = run.parent


def _alike(upper: Run, lower: Run) -> bool:
    for place, other in zip(upper.places, lower.places, strict=True):
        if place is None or other is None:
            if place is not other:
                return False
        elif place.stamp != other.stamp or (
            place.batch is not other.batch and PENDING in (place.batch.done_s, other.batch.done_s)
        ):
            return False
    return True


def _ignore_split(upper: Run, lower: Run) -> None:
    return None


def _ignore_join(upper: Run) -> None:
    return None
