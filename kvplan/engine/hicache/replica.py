"""An SGLang engine with host memory: the clock of its copies."""

from __future__ import annotations

from kvplan.engine.hicache.index import HierarchicalIndex
from kvplan.engine.hicache.metrics import metrics
from kvplan.engine.hicache.scheduler import HierarchicalScheduler
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.replica import Flight, SglangReplica


class HierarchicalReplica(SglangReplica):
    """A replica whose radix cache goes on in the host.

    Args:
        config, latency, recorder: as of ``SglangReplica``.
        index: the cache, empty.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, index: HierarchicalIndex
    ) -> None:
        self.index = index
        self.copies = index.copies
        super().__init__(config, latency, recorder)

    def make_scheduler(self) -> HierarchicalScheduler:
        """Above the same cache."""
        pool = TokenPool(self.config, self.index)
        self.hierarchical = HierarchicalScheduler(self.config, pool, keep_schedule=self.logging)
        return self.hierarchical

    def _plan(self, clock: float) -> tuple[SglangPlan, float]:
        """As the base class; writes that the scheduler waits for take their time."""
        self.copies.now = clock
        plan = self.scheduler.schedule()
        return plan, self.copies.now

    def _launch(self, plan: SglangPlan, start: float) -> float:
        """As the base class; the step ends after its loads."""
        copies = self.copies
        done_s = super()._launch(plan, start)
        if copies.loaded_s > done_s:
            copies.lengthened_s += copies.loaded_s - done_s
            done_s = copies.loaded_s
        copies.fence = done_s
        return done_s

    def _wait(self, clock: float, until: float) -> float:
        """Until the next copy has arrived: it lets go of what it holds."""
        self.copies.now = clock
        next_s = self.copies.next_s
        if next_s == float("inf"):
            return super()._wait(clock, until)
        return min(next_s, until)

    def _coast(
        self, clock: float, device_free: float, in_flight: Flight | None, until: float
    ) -> tuple[float, float, Flight | None]:
        """As the base class; the round that finds a copy arrived lets go of what it holds."""
        self.copies.now = clock
        self.index.settle()
        until = min(until, self.copies.next_s)
        clock, device_free, in_flight = super()._coast(clock, device_free, in_flight, until)
        self.copies.fence = device_free
        return clock, device_free, in_flight

    def deliver(self, plan: SglangPlan, clock: float) -> bool:
        """As the base class; then what was inserted is sent to the host."""
        self.copies.now = clock
        heard = super().deliver(plan, clock)
        self.copies.flush()
        return heard

    def close(self) -> None:
        """As the base class; writes the section ``tiers``."""
        super().close()
        self.recorder.sections["tiers"] = metrics(self)
