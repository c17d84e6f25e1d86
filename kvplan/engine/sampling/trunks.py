"""When trunks of beams reach the end of a block, as a table: steps that need no look at any group.

While all beams of a group decode in step, their trunk reaches the end of a block every ``block_size`` ticks
and frees the copies that all beams but one hold of it. What that frees over all groups is a table by tick.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import accumulate
from operator import sub
from typing import TYPE_CHECKING

from kvplan.engine.live import LiveRequest
from kvplan.engine.steady import SteadyDecodes

if TYPE_CHECKING:
    from kvplan.engine.sampling.beams import BeamScheduler
    from kvplan.engine.sampling.forking import Siblings


class TrunkDecodes(SteadyDecodes):
    """``SteadyDecodes`` of beams. What a trunk frees at a tick is freed before the step that follows it.

    A group is *regular* while all its beams are in step; what its trunk holds is then written down only when
    one of them leaves. Every other group is looked at before every step.

    Attributes:
        freed_until: the last tick whose blocks have been freed.
        most_used: the most blocks in use after any step that was not planned.
    """

    __slots__ = (
        "_entries",
        "_frees",
        "_later",
        "_loose",
        "_regular",
        "_scheduler",
        "freed_until",
        "most_used",
    )

    def __init__(self, block_size: int, scheduler: BeamScheduler) -> None:
        super().__init__(block_size)
        self.needs = [0] * block_size
        self.freed_until = -1
        self.most_used = 0
        self._scheduler = scheduler
        self._frees = [0] * block_size
        self._loose: dict[Siblings, None] = {}
        self._regular: dict[Siblings, tuple[int, int]] = {}  # the smallest base, and what it frees each time
        self._later: list[tuple[int, int, Siblings]] = []  # whose trunk ends far before the lag, as yet
        self._entries = 0

    def loosen(self, group: Siblings) -> None:
        """Something about the group changes: write down what its trunk holds."""
        self._loose[group] = None
        group.shared = self.shared(group)
        known = self._regular.pop(group, None)
        if known is not None:
            base, freed = known
            if freed:
                self._frees[-(base - self._scheduler.trunk_lag) % self.block_size] -= freed

    def shared(self, group: Siblings) -> int:
        """Blocks that the group holds once, as far as they have been freed."""
        known = self._regular.get(group)
        if known is None:
            return group.shared
        trunk = known[0] + self.freed_until - self._scheduler.trunk_lag
        return max(group.shared, trunk // self.block_size)

    def leave(self, request: LiveRequest, in_flight: int) -> None:
        """As the base class."""
        group = self._scheduler.siblings.get(request)
        if group is not None and group not in self._loose:
            self.loosen(group)
        super().leave(request, in_flight)

    def free(self) -> None:
        """Before a step is planned: free what trunks have reached."""
        tick, size = self.tick, self.block_size
        if self.freed_until < tick:
            self.freed_until = tick
            freed = self._frees[tick % size]
            if freed:
                self._scheduler.pool.blank += freed
                self._scheduler.count_merged(freed)
        later = self._later
        while later and later[0][0] <= tick:
            group = heappop(later)[2]
            if group in self._regular:
                self._enter(group)
        if self._loose:
            loose, self._loose = self._loose, {}
            for group in loose:
                self._sort_in(group)

    def _sort_in(self, group: Siblings) -> None:
        """Merge what can be, and see whether the group is regular."""
        members = group.members
        if len(members) < 2:
            return
        self._scheduler.merge(group)
        if any(beam.steady is None for beam in members):
            self._loose[group] = None
            return
        self._regular[group] = (min(beam.base for beam in members), 0)
        self._enter(group)

    def _enter(self, group: Siblings) -> None:
        """Into the table, if its trunk reaches the end of a block within one period; else look again then."""
        base, freed = self._regular[group]
        if freed:
            return
        size, lag = self.block_size, self._scheduler.trunk_lag
        first = (group.shared + 1) * size + lag - base
        if first > self.tick + size:
            self._entries += 1
            heappush(self._later, (first - size, self._entries, group))
            return
        freed = len(group.members) - 1
        self._regular[group] = (base, freed)
        self._frees[first % size] += freed

    # -- steps that are not planned ---------------------------------------------------------------------

    def quiet_steps(self) -> int:
        """As the base class, at most one period: ``needs`` says what those steps take and free."""
        self.free()
        size, now = self.block_size, self.tick % self.block_size
        self.needs[:] = map(sub, self.boundaries, self._frees)
        self.needs[now] = self.boundaries[now]  # what this tick frees is free
        return min(size, super().quiet_steps(), self._scheduler.steps_to_admission(self._ahead()))

    def _ahead(self) -> list[int]:
        """What each of the next ``block_size`` steps takes, less what is freed before it."""
        now = self.tick % self.block_size
        return self.needs[now:] + self.needs[:now]

    def glide(self, steps: int) -> None:
        """As the base class; of what is taken, the pool is told only what is not freed meanwhile."""
        scheduler, size = self._scheduler, self.block_size
        most = max(accumulate(self._ahead()[:steps]))
        self.most_used = max(self.most_used, scheduler.pool.usable - scheduler.pool.blank + most)
        frees, now = self._frees, self.tick % size
        freed = sum((frees[now:] + frees[:now])[1:steps])
        super().glide(steps)
        self.freed_until = self.tick - 1
        if freed:
            scheduler.pool.allocated += freed
            scheduler.count_merged(freed)
