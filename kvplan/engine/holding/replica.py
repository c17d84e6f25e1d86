"""An engine whose requests hold blocks by other rules, and the books it keeps about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.blocks import BlockPool
from kvplan.engine.config import EngineConfig
from kvplan.engine.holding.fragmentation import Fragmentation
from kvplan.engine.holding.holder import Holder
from kvplan.engine.holding.scheduler import HoldingScheduler
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Metric, Recorder
from kvplan.engine.replica import Replica
from kvplan.traces.request import Request

_EVERY_POINT = 256
"""Points of the series that are all observed; of later ones one in four is, as looking costs time."""


class ObservedReplica(Replica):
    """The plain engine, with fragmentation observed at points of the series."""

    def __init__(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> None:
        super().__init__(config, latency, recorder)
        self.fragmentation = Fragmentation()
        self._points = 0

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """As the base class."""
        super().run(requests)
        self.fragmentation.until(self.clock)

    def add_point(self, clock: float) -> None:
        """As the base class; the regions are looked at every so many points."""
        self._points += 1
        if self._points < _EVERY_POINT or self._points % 4 == 0:
            self._observe(clock)
        super().add_point(clock)

    def _observe(self, clock: float) -> None:
        size = self.config.block_size
        used = reserved = 0
        for request, computed in self._progress():
            used += computed
            # A block is shared or the request's own; what will be used of it is known from its last tokens.
            final = request.prompt_tokens + request.max_tokens - 1
            reserved += min(-computed % size, final - computed)
        room = used + sum(-computed % size for _, computed in self._progress())
        free = self.scheduler.free_blocks
        self.fragmentation.observe(clock, room, used, reserved, free, free)

    def _progress(self) -> Iterator[tuple[LiveRequest, int]]:
        """Running requests and the tokens they have computed."""
        tick = self.scheduler.steady.tick
        for request in self.scheduler.running:
            yield request, request.computed if request.steady is None else request.base + tick

    def close(self) -> None:
        """As the base class; the section ``allocation``."""
        super().close()
        paged = Metric("kind", f"paged:{self.config.block_size}", "", "blocks of so many tokens, anywhere")
        self.recorder.sections["allocation"] = [paged, *self.fragmentation.metrics(contiguous=False)]


class HoldingReplica(ObservedReplica):
    """An engine whose requests hold what a holder gives them.

    Args:
        holder: makes the holder of an engine's pool.
    """

    scheduler: HoldingScheduler

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        holder: Callable[[EngineConfig, BlockPool], Holder],
    ) -> None:
        super().__init__(config, latency, recorder)
        self.holder = holder(config, self.scheduler.pool)
        self.scheduler.hold_with(self.holder)

    def make_scheduler(self) -> HoldingScheduler:
        """One that asks a holder, which it is told when it is complete."""
        return HoldingScheduler(self.config, keep_schedule=self.logging)

    def rejection(self, request: Request) -> str | None:
        """As the holder sees it."""
        return self.holder.rejection(request)

    def step_seconds(self, plan: StepPlan) -> float:
        """As the base class; copies within the cache come before the step."""
        copies, self.holder.copy_seconds = self.holder.copy_seconds, 0.0
        return super().step_seconds(plan) + copies

    def _observe(self, clock: float) -> None:
        size, holder = self.config.block_size, self.holder
        room = used = reserved = 0
        unsettled = set(self.scheduler.unsettled)
        for request, computed in self._progress():
            kept = holder.attended(request, computed)
            held = holder.blocks_of(request, computed) * size
            if request in unsettled and kept < computed:
                # What the chunk in flight will drop is still needed for computing it.
                kept = min(computed, held)
            final = request.prompt_tokens + request.max_tokens - 1
            room += held
            used += min(kept, held)
            reserved += max(0, min(held, holder.attended(request, final)) - kept)
        self.fragmentation.observe(clock, room, used, reserved, holder.pool.blank, holder.largest_hole())

    def close(self) -> None:
        """As the base class; the holder's section."""
        super().close()
        sections = self.recorder.sections
        del sections["allocation"]
        shares = self.fragmentation.metrics(contiguous=self.holder.contiguous)
        sections[self.holder.section] = [*self.holder.metrics(), *shares]
