"""An engine instance with tiers: the source of its loads, and the clock of its links."""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.engine.config import EngineConfig
from kvplan.engine.content import Content
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.remote.queue import Load
from kvplan.engine.remote.replica import RemoteReplica
from kvplan.engine.tiers.scheduler import TieredScheduler
from kvplan.engine.tiers.stack import TierStack
from kvplan.engine.tiers.swap import Preemption, RecomputeCost
from kvplan.traces.request import Request


class TieredReplica(RemoteReplica):
    """A replica whose prefix cache goes on below the device.

    Args:
        config, latency, recorder: as of ``Replica``.
        stack: the tiers, empty.
        preemption: what happens to a preempted request's KV.
        prefetch: whether what the disk has of a prompt is read into the host as soon as it arrives.
    """

    hears_every_step = True

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        stack: TierStack,
        *,
        preemption: Preemption = "recompute",
        prefetch: bool = False,
    ) -> None:
        self.stack = stack
        self.preemption = preemption
        self.prefetch = prefetch and stack.disk is not None and config.enable_prefix_caching
        self.load_s = 0.0
        self.cached_tokens = 0
        super().__init__(config, latency, recorder, self)

    def make_scheduler(self) -> TieredScheduler:
        """With the same tiers."""
        self.tiered = TieredScheduler(
            self.config,
            self,
            self.stack,
            self.preemption,
            RecomputeCost(self.latency, self.config.max_num_batched_tokens),
            keep_schedule=self.logging,
        )
        return self.tiered

    def push(self, request: Request) -> None:
        """As the base class; with prefetching, the disk starts to read."""
        waiting = len(self.scheduler.waiting)
        super().push(request)
        if self.prefetch and len(self.scheduler.waiting) > waiting:
            content = Content(request.prompt, request.output)
            limit = (request.prompt_tokens - 1) // self.config.block_size
            held = self.scheduler.index.match(content, limit).blocks
            self.stack.prefetch(content, held, limit, request.arrival_s)

    # -- the source of loads ----------------------------------------------------------------------------

    def lookup(self, request: LiveRequest, start: int) -> int:
        """What a swapped request has in the host, else what the tiers have of its content."""
        swapped = self.tiered.swapped.get(request)
        if swapped is not None and swapped.tokens > start:
            return swapped.tokens - start
        if not self.tiered.caching:
            return 0
        size = self.config.block_size
        return self.stack.lookup(request.content, start // size, request.num_tokens // size) * size

    def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
        """Queue up for the links."""
        size = self.config.block_size
        first, end = start // size, -(-(start + tokens) // size)
        swapped = self.tiered.swapped.get(request)
        if swapped is None:
            return self.stack.fetch(request.content, first, end, now)
        self.send_swapped(now)
        counts, line = self.tiered.counts, self.stack.gets[0]
        counts.back += 1
        counts.back_blocks += end - first
        counts.back_s += line.seconds(end - first)
        return line.send(max(now, swapped.done_s), end - first)

    def loaded(self, load: Load) -> None:
        """How long it took."""
        self.load_s += load.done_s - load.began_s

    # -- the clock --------------------------------------------------------------------------------------

    def advance(self, until: float) -> None:
        """As the base class."""
        self.tiered.now = self.clock
        super().advance(until)

    def _coast(self, clock: float, device_free: float, until: float) -> tuple[float, float, float]:
        clock, device_free, until = super()._coast(clock, device_free, until)
        self.tiered.now = clock
        return clock, device_free, until

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        """As the base class; what the step evicted or swapped out is sent."""
        self.tiered.now = clock
        self.send_swapped(clock)
        until = super().planned(plan, clock, until)
        # Steps that only decode are run through in bulk, so what they evict joins the next transfer.
        if plan.batch.prefill_chunks or plan.preempted:
            self.stack.flush(clock)
        for request in plan.admitted:
            self.cached_tokens += request.cached_tokens
        return until

    def deliver(self, plan: StepPlan, clock: float) -> None:
        """As the base class; what requests that end leave behind is sent."""
        self.tiered.now = clock
        super().deliver(plan, clock)
        if plan.finish:
            self.stack.flush(clock)

    def give_up(self, clock: float, plans: Iterable[StepPlan]) -> bool:
        """As the base class; what those requests leave behind is sent."""
        self.tiered.now = clock
        gave_up = super().give_up(clock, plans)
        if gave_up:
            self.stack.flush(clock)
        return gave_up

    def send_swapped(self, now: float) -> None:
        """Copy out what the last ``schedule()`` swapped: it precedes what that step writes."""
        tiered, line = self.tiered, self.stack.puts[0]
        for swapped in tiered.leaving:
            tiered.counts.out_s += line.seconds(swapped.blocks)
            swapped.done_s = line.send(now, swapped.blocks)
        tiered.leaving.clear()

    def close(self) -> None:
        """As the base class; writes the section ``tiers``."""
        super().close()
        from kvplan.engine.tiers.metrics import metrics

        self.stack.flush(self.clock)
        self.recorder.sections["tiers"] = metrics(self)
