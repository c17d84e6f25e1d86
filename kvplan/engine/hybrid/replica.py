"""A vLLM engine with several cache groups on one pool."""

from __future__ import annotations

from kvplan.engine.hybrid.scheduler import HybridScheduler
from kvplan.engine.replica import Replica


class HybridReplica(Replica):
    """``Replica`` over any groups that ``covers`` allows."""

    hears_every_step = True

    def make_scheduler(self) -> HybridScheduler:
        """One of all groups."""
        return HybridScheduler(self.config, keep_schedule=self.logging)
