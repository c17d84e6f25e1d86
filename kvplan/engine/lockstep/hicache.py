"""SGLang's ranks above host memory: each has a tree, host pools and a cache controller of its own.

With as many ranks as GPUs a rank is alone in the group whose members agree on what has arrived
(``attn_tp_cache_group``), so ranks decide on their copies for themselves, and every one goes round and lets
go of what has arrived, also one without requests. What they do together makes them wait: a batch is launched
when all have made theirs, so also for a rank that evicts with ``write_back``, and a step ends for all when
the loads of every rank are through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.lockstep.sglang import SglangLockstepEngine
from kvplan.engine.lockstep.sglang_drafted import DraftedSglangLockstepEngine
from kvplan.engine.sglang.plan import SglangPlan


class HierarchicalRanks(SglangLockstepEngine):
    """Ranks in step whose radix caches go on in the host.

    Args:
        ranks, router, config, latency, recorder, make: as of ``SglangLockstepEngine``; a rank is a
            ``HierarchicalReplica``.
    """

    @property
    def hosted(self) -> Sequence[HierarchicalReplica]:
        """The ranks."""
        return cast("Sequence[HierarchicalReplica]", self.ranks)

    def _plan(self) -> tuple[SglangPlan, ...]:
        """As the base class, after a look at what has arrived."""
        for rank in self.hosted:
            rank.copies.now = self.clock
            rank.hierarchical.wake(self.clock)
        return super()._plan()

    def _gather(self) -> None:
        """As the base class: for writes that one of them waits for."""
        self.clock = max(rank.copies.now for rank in self.hosted)
        for rank in self.hosted:
            rank.copies.now = self.clock

    def _launch(self, plans: tuple[SglangPlan, ...]) -> float:
        """As the base class; the step ends after everybody's loads."""
        computed_s = super()._launch(plans)
        longer = [max(rank.copies.loaded_s - computed_s, 0.0) for rank in self.hosted]
        self._own_s += sum(longer)
        self._busy_s += max(longer) * len(self.ranks)
        for rank, seconds in zip(self.hosted, longer, strict=True):
            rank.copies.lengthened_s += seconds
        self._fence(max(computed_s, *[rank.copies.loaded_s for rank in self.hosted]))
        return self._device_free

    def _fence(self, device_free: float) -> None:
        """No copy begins before everything launched so far is through."""
        self._device_free = device_free
        for rank in self.hosted:
            rank.copies.fence = device_free

    def _wait(self, until: float) -> None:
        """Until the next copy of any rank has arrived: that rank lets go of what it holds."""
        next_s = self.arrives_s
        if next_s == float("inf"):
            super()._wait(until)
        self.clock = min(next_s, until)

    @property
    def arrives_s(self) -> float:
        """When the next copy of any rank will have arrived; infinite without one."""
        return min(rank.copies.next_s for rank in self.hosted)

    def _coast(self, until: float) -> bool:
        """As the base class; the round that finds a copy arrived lets go of what it holds."""
        for rank in self.hosted:
            rank.copies.now = self.clock
            rank.index.settle()
        coasted = super()._coast(min(until, self.arrives_s))
        if coasted:
            self._fence(self._device_free)
        return coasted


class DraftedHierarchicalRanks(HierarchicalRanks, DraftedSglangLockstepEngine):
    """The same, of ranks that verify drafts."""
