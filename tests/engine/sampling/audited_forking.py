"""A forking engine that checks its books around every delivery; a helper of tests."""

from __future__ import annotations

from audited import Audited

from kvplan.engine.sampling.beams import BeamScheduler
from kvplan.engine.sampling.forking import ForkingScheduler, Siblings
from kvplan.engine.sampling.replica import ForkingReplica


class AuditedForking(Audited, ForkingReplica):
    """Every block is free or held, shared ones once; every sample has a place."""

    def audit(self) -> None:
        scheduler = self.forking
        if scheduler.caching:
            super().audit()
        else:
            self.audit_counts(scheduler)
        unforked = sum(1 for request in scheduler._unforked if request in scheduler.running)
        assert scheduler._places_reserved == unforked * (scheduler.n - 1)
        assert len(scheduler.running) + scheduler._places_reserved <= self.config.max_num_seqs

    def audit_counts(self, scheduler: ForkingScheduler) -> None:
        pool, steady = scheduler.pool, scheduler.steady
        groups = {}
        own = 0
        for request in scheduler.running:
            blocks = request.blocks
            if request.steady is not None:
                blocks = -(-(request.base + steady.tick) // steady.block_size)
            group = scheduler.siblings.get(request)
            if group is not None:
                assert request in group.members
                groups[group.number] = group
                blocks -= self._shared(group)
            assert blocks >= 0
            own += blocks
        for group in groups.values():
            assert set(group.members) <= set(scheduler.running)
        assert pool.blank >= 0
        assert pool.cached == 0
        assert pool.blank + own + sum(map(self._shared, groups.values())) == pool.usable

    def _shared(self, group: Siblings) -> int:
        scheduler = self.forking
        return scheduler.beams.shared(group) if isinstance(scheduler, BeamScheduler) else group.shared
