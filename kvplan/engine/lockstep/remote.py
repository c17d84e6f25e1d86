"""Ranks whose requests may wait for KV from elsewhere.

Each rank's workers look for what has come when a step is launched, also where the rank runs an empty batch
beside the others; it hears of it when the step ends. A rank with nothing but loads on their way has
unfinished requests for its peers: the wave goes on, and all of them run empty batches. Where no rank has
anything to compute these take no time here, and how many there were is not counted: whoever comes next may
be let in at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import cast

from kvplan.engine.lockstep.engine import Group, LockstepEngine
from kvplan.engine.remote.replica import RemoteReplica


class RemoteRanks(LockstepEngine):
    """Ranks each of which has a source of KV beside its own cache."""

    _nothing_planned = False

    @property
    def remotes(self) -> Sequence[RemoteReplica]:
        """The ranks."""
        return cast("Sequence[RemoteReplica]", self.ranks)

    @property
    def hears(self) -> bool:
        """Whether something has come that no rank has noticed."""
        return any(rank.hears and rank.asks for rank in self.ranks)

    def compute(self, until: float) -> None:
        """``advance`` of an engine on which no load ends before ``until``."""
        self._nothing_planned = False
        super().advance(until)

    def notices_idle(self) -> bool:
        """Whether nothing can be computed and loads have come; they are known then."""
        if not self.hears or self._in_flight or (self.works and not self._nothing_planned):
            return False
        for rank in self.remotes:
            if rank.asks:
                rank.notice()
        return True

    def _goes_on(self, group: Group) -> bool:
        """As the base class; empty steps that have nothing to tell lead to no other."""
        if self.hears or any(step.tokens or step.tells for step in (group, *self._in_flight)):
            return True
        self._in_flight.clear()
        return False

    def _nothing_fits(self) -> None:
        """Not the end as long as loads are on their way, or clients may give up."""
        for rank in self.remotes:
            rank.start_fetches(self.clock)
        self._nothing_planned = True
        if all(rank.waits_for_nothing and rank.gives_up_s == inf for rank in self.remotes):
            super()._nothing_fits()
