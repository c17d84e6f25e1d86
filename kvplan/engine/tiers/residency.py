"""Which contents are where, in runs of blocks: a run is in a tier wholly or not at all."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.runs import ContentRun, RunTree
from kvplan.engine.tiers.line import PENDING, Batch


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


class Run(ContentRun):
    """Blocks along a content; ``places`` has an entry for every tier."""

    __slots__ = ("places",)

    def __init__(
        self, content: Content, start: int, end: int, parent: Run | None, key: BlockKey, tiers: int
    ) -> None:
        super().__init__(content, start, end, parent, key)
        self.places: list[Place | None] = [None] * tiers

    @property
    def anywhere(self) -> bool:
        """Whether some tier has it."""
        places = self.places
        return places[0] is not None or places[-1] is not None

    def only_in(self, place: Place) -> bool:
        """Whether this is the one place it has."""
        places = self.places
        return (places[0] is place or places[0] is None) and (places[-1] is place or places[-1] is None)


class Residency(RunTree[Run]):
    """The tree; tiers put their places on its runs. Two runs are alike that were last used together.

    A run may be in no tier because the device still had the front of a path whose tail was written down.

    Attributes:
        on_split: told the upper and the lower part of a run that was cut.
        on_join: told of a run that is about to go into the one below it.
    """

    def __init__(self, block_size: int, tiers: int) -> None:
        self.tiers = tiers
        self.on_split: Callable[[Run, Run], None] = _ignore_split
        self.on_join: Callable[[Run], None] = _ignore_join
        super().__init__(block_size)

    def make(self, content: Content, start: int, end: int, parent: Run | None, key: BlockKey) -> Run:
        """See ``RunTree``."""
        return Run(content, start, end, parent, key, self.tiers)

    def part(self, upper: Run, lower: Run) -> None:
        """See ``RunTree``."""
        for tier, place in enumerate(lower.places):
            if place is not None:
                upper.places[tier] = Place(upper, place.stamp, place.batch)
        self.on_split(upper, lower)

    def alike(self, upper: Run, lower: Run) -> bool:
        """See ``RunTree``."""
        for place, other in zip(upper.places, lower.places, strict=True):
            if place is None or other is None:
                if place is not other:
                    return False
            elif place.stamp != other.stamp or (
                place.batch is not other.batch and PENDING in (place.batch.done_s, other.batch.done_s)
            ):
                return False
        return True

    def leave(self, upper: Run, lower: Run) -> None:
        """See ``RunTree``; the position in the order of every tier is the same."""
        for place, other in zip(lower.places, upper.places, strict=True):
            if place is not None and other is not None and other.batch.done_s > place.batch.done_s:
                place.batch = other.batch
        self.on_join(upper)
        upper.places = [None] * self.tiers


def _ignore_split(upper: Run, lower: Run) -> None:
    return None


def _ignore_join(upper: Run) -> None:
    return None
