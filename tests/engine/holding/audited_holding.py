"""An engine with a holder that checks its books around every delivery; a helper of tests."""

from __future__ import annotations

from kvplan.engine.holding.dropping import Dropping
from kvplan.engine.holding.placed import Placed
from kvplan.engine.holding.replica import HoldingReplica
from kvplan.engine.plan import StepPlan


class AuditedHolding(HoldingReplica):
    """Free and held blocks are all blocks, requests hold what they need, and regions do not overlap."""

    def deliver(self, plan: StepPlan, clock: float) -> None:
        self.audit()
        super().deliver(plan, clock)
        self.audit()

    def audit(self) -> None:
        pool, running, holder = self.scheduler.pool, self.scheduler.running, self.holder
        assert pool.blank >= 0
        assert pool.cached == 0
        held = sum(holder.blocks_of(request, computed) for request, computed in self._progress())
        assert pool.blank + held == pool.usable
        assert len(list(self._progress())) == len(running)
        if isinstance(holder, Placed):
            self.audit_regions(holder)
        if isinstance(holder, Dropping):
            for request, computed in self._progress():
                kept = holder.attended(request, computed)
                law = holder.law
                assert (
                    holder.blocks_of(request, computed) >= law.blocks(kept, holder.size) + law.buffer_blocks
                )

    def audit_regions(self, holder: Placed) -> None:
        space, pool = holder.space, self.scheduler.pool
        assert space.free == pool.blank
        assert space.largest() <= space.free
        assert set(holder.regions) == set(self.scheduler.running)
        for request, computed in self._progress():
            assert request.blocks * holder.size >= computed
        end = 0
        for start, size in sorted((at, request.blocks) for request, at in holder.regions.items()):
            assert start >= end
            end = start + size
        assert end <= pool.usable
