"""vLLM's scheduler above tiers: what goes down, and what a preemption does.

vLLM itself writes through (its offloading connector) and preempts by recomputing (v1); writing back and
swapping are what other engines, and its own v0, do.
"""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.remote.queue import Load
from kvplan.engine.remote.scheduler import RemoteScheduler
from kvplan.engine.remote.source import KvSource
from kvplan.engine.tiers.stack import TierStack
from kvplan.engine.tiers.swap import Preemption, RecomputeCost, SwapCounts, Swapped, swap_is_cheaper


class TieredScheduler(RemoteScheduler):
    """``RemoteScheduler`` with tiers.

    Attributes:
        now: the clock, kept by the replica: what a preemption costs depends on the queues of the links.
        swapped: requests whose KV is in the host; leaving: those whose copy has not been asked for yet.
    """

    def __init__(
        self,
        config: EngineConfig,
        source: KvSource,
        stack: TierStack,
        preemption: Preemption,
        cost: RecomputeCost,
        *,
        keep_schedule: bool = False,
    ) -> None:
        super().__init__(config, source, keep_schedule=keep_schedule)
        self.stack = stack
        self.preemption = preemption
        self.cost = cost
        self.now = 0.0
        self.swapped: dict[LiveRequest, Swapped] = {}
        self.leaving: list[Swapped] = []
        self.counts = SwapCounts()
        self.through = self.caching and stack.specs[0].write == "through"
        self._written: dict[LiveRequest, int] = {}
        if self.caching and not self.through:
            self.index.on_gone = stack.gone

    # -- down -------------------------------------------------------------------------------------------

    def publish(self, request: LiveRequest) -> None:
        """As the base class; with write-through the same blocks go down, unless the host has them."""
        super().publish(request)
        if self.through:
            self._write(request, min(request.computed, request.num_tokens) // self.block_size)

    def _write(self, request: LiveRequest, blocks: int) -> None:
        written = self._written.get(request, 0)
        if blocks > written:
            self.stack.store(request.content, written, blocks)
            self._written[request] = blocks

    def _finish(self, request: LiveRequest) -> None:
        if self.through:
            if request.status is Status.RUNNING:
                self._write(request, (request.prompt_tokens + request.max_tokens - 1) // self.block_size)
            self._written.pop(request, None)
        super()._finish(request)
        self._forget(request)

    def abort(self, request: LiveRequest) -> None:
        """As the base class; what it has computed goes down before it is dropped, with write-through."""
        if self.through:
            if request.status is Status.RUNNING:
                self._write(request, request.published_blocks())
            self._written.pop(request, None)
        super().abort(request)
        if request not in self.queue.orphaned:
            self._free_copy(request)

    # -- up ---------------------------------------------------------------------------------------------

    def _admit(self, plan: StepPlan, request: LiveRequest, match: Match, tokens: int) -> None:
        super()._admit(plan, request, match, tokens)
        self._forget(request)
        if match.blocks and not self.through:
            self.stack.touch(request.content, match.blocks)

    def begin_load(self, request: LiveRequest, match: Match, tokens: int) -> None:
        # Used before the device's own evictions come down, which may have to take other room for it.
        self.stack.touch(request.content, match.blocks + tokens // self.block_size)
        super().begin_load(request, match, tokens)

    def arrived(self, load: Load) -> None:
        """As the base class; what a swapped request had in the host is free again."""
        super().arrived(load)
        self._free_copy(load.request)

    def _forget(self, request: LiveRequest) -> None:
        """A swapped request goes on without its copy."""
        self.counts.unused += self._free_copy(request)

    def _free_copy(self, request: LiveRequest) -> bool:
        """What a request has in the host is free; whether it had anything there."""
        swapped = self.swapped.pop(request, None)
        if swapped is not None:
            self.stack.release(swapped.blocks)
        return swapped is not None

    # -- preemption -------------------------------------------------------------------------------------

    def preempt(self, request: LiveRequest, taken_back: int) -> None:
        """Swap the request's KV to the host, or drop it: as configured, and as there is room."""
        tokens = request.computed - taken_back
        if self.through:
            self._write(request, min(request.published, tokens // self.block_size))
            self._written.pop(request, None)
        # With its last output in flight nothing of it will be asked for again.
        swap = tokens > 0 and request.samples < request.max_tokens and self._swaps(request, tokens)
        if swap:
            self._swap_out(request, tokens)
        else:
            self.counts.dropped += 1
            self.counts.dropped_tokens += tokens
            self.counts.dropped_s += self.cost.seconds(0, tokens)
        super().preempt(request, taken_back)

    def _swaps(self, request: LiveRequest, tokens: int) -> bool:
        if self.preemption == "recompute":
            return False
        if self.preemption == "auto" and not swap_is_cheaper(
            self.stack,
            self.cost,
            request,
            tokens,
            self.block_size,
            running=len(self.running),
            now=self.now,
        ):
            return False
        if self.stack.reserve(-(-tokens // self.block_size)):
            return True
        self.counts.host_full += 1
        return False

    def _swap_out(self, request: LiveRequest, tokens: int) -> None:
        swapped = Swapped(tokens, -(-tokens // self.block_size))
        self.swapped[request] = swapped
        self.leaving.append(swapped)
        self.counts.out += 1
        self.counts.out_blocks += swapped.blocks
