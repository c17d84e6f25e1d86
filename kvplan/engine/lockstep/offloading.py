"""Ranks each of which has vLLM's offloading connector, and host memory of its own.

Every engine core of a data-parallel deployment makes a connector with both its sides (``kv_offloading_size``
is that of each). A rank's copies run beside its own device; what it stores, and when, follows from its own
steps. Only a step that waits for stores before it is launched has the others wait, too. The workers of a rank
without requests are asked for nothing, and what has come there is found with its next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from kvplan.engine.lockstep.remote import RemoteRanks
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.plan import StepPlan
from kvplan.engine.remote.timed import Timed


class OffloadingRanks(RemoteRanks, Timed):
    """See the module."""

    @property
    def offloaders(self) -> Sequence[OffloadingReplica]:
        """The ranks."""
        return cast("Sequence[OffloadingReplica]", self.ranks)

    def advance(self, until: float) -> None:
        """As the base class, stopping at every timer."""
        self.advance_by_timers(until)

    @property
    def next_timer(self) -> float:
        """See ``Timed``."""
        return min(rank.next_timer for rank in self.offloaders)

    def ring(self, until: float) -> None:
        """See ``Timed``."""
        for rank in self.offloaders:
            rank.ring(until)

    def gives_up_idle(self, until: float) -> bool:
        """See ``Timed``; of one rank, whose client is the first."""
        if self._in_flight:
            return False
        rank = min(self.offloaders, key=lambda each: each.deadline_s)
        rank.clock = self.clock
        gave_up = rank.gives_up_idle(until)
        self.clock = rank.clock
        self.stopped = self.stopped or (gave_up and self.stops)
        return gave_up

    def _launch(self, plans: Sequence[StepPlan]) -> float:
        """As the base class; all ranks have launched before any is through, and then their copies begin."""
        each = zip(self.offloaders, plans, self._idle, strict=True)
        asked = [(rank, plan) for rank, plan, idle in each if plan is not idle]
        clock, before = self.clock, self._device_free
        launched = [rank.flush(plan, clock, before) for rank, plan in asked]
        computing = any(plan.batch.scheduled_tokens for plan in plans)
        if computing:
            self._device_free = max(before, *launched)
        end = super()._launch(plans)
        for (rank, plan), own in zip(asked, launched, strict=True):
            ready = self._device_free if plan.batch.scheduled_tokens else max(own, before)
            rank.copy(plan, clock, ready, ready)
        return end if computing else max([clock, *launched])
