"""vLLM's scheduler with a holder in the place of block tables: who runs, and when, is decided as before."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.holding.holder import Growth, Holder
from kvplan.engine.holding.plan import HeldPlan
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.scheduler_vllm import VllmScheduler
from kvplan.errors import UsageError


class HoldingScheduler(VllmScheduler):
    """A scheduler whose requests hold what ``holder`` gives them.

    Attributes:
        unsettled: requests that computed a part of their prompt in the last step: what they need not keep
            is dropped when the next step is planned.

    Raises:
        UsageError: prefix caching is on.
    """

    def __init__(self, config: EngineConfig, *, keep_schedule: bool = False) -> None:
        if config.enable_prefix_caching:
            raise UsageError(
                "blocks that are reserved, moved or emptied cannot be found by their content",
                where="cache.prefix",
                hint="set cache.prefix to none",
            )
        super().__init__(config, keep_schedule=keep_schedule)

    def hold_with(self, holder: Holder) -> None:
        """From the start: ``holder`` gives out this scheduler's pool."""
        self.holder = holder
        self.steady = self.held = holder.decodes()
        self.unsettled: list[LiveRequest] = []

    def new_plan(self) -> StepPlan:
        """An empty plan that counts what is kept."""
        return HeldPlan(self.holder)

    def undecided(self) -> bool:
        """As the base class, after what the last step left has been dropped; also where a look is due."""
        self._settle()
        return self.held.quiet_steps() < 1 or super().undecided()

    def schedule(self) -> StepPlan:
        """As the base class, after what the last step left over has been dropped."""
        self._settle()
        return super().schedule()

    def _settle(self) -> None:
        if not self.unsettled:
            return
        tick = self.held.tick
        for request in self.unsettled:
            if request.status is Status.RUNNING:
                computed = request.computed if request.steady is None else request.base + tick
                if self.holder.settle(request, computed):
                    self.version += 1
        self.unsettled = []

    def regular(self, plan: StepPlan, threshold: int, defer_prefills: bool) -> bool:
        """As the base class; if somebody finds no room, those before it in line have theirs already."""
        held = self.held
        count = held.count
        budget = self.config.max_num_batched_tokens - count
        if budget < 0:
            return False
        chunks: list[tuple[LiveRequest, int]] = []
        if self.prefills and not defer_prefills:
            found = self.chunks(budget, threshold)
            if found is None:
                return False
            chunks = [(request, tokens) for request, tokens, _ in found]
        due = held.looks() if count else []
        demand = held.boundary_blocks if count else 0
        if not self.holder.grow_all(self._growth(due, chunks), demand):
            return False
        if demand:
            self.index.take(demand)
        if self.keep_schedule:
            self._log_regular(plan, dict(chunks))
        if count:
            batch = plan.batch
            batch.scheduled_tokens = batch.decode_requests = batch.sampled_requests = count
            held.glide(1)
            batch.decode_context = batch.decode_kv_tokens = held.context()
            held.looked(due)
        for request, tokens in chunks:
            plan.add(request, request.computed, tokens)
            plan.carries_prefill = True
            request.computed += tokens
            self.unsettled.append(request)
        if held.next_event() <= held.tick:
            for request in held.due()[1]:
                held.leave(request, 1)
                plan.finish.append(request)
        return True

    def _growth(self, due: list[LiveRequest], chunks: list[tuple[LiveRequest, int]]) -> list[Growth]:
        """Who is to compute how far, in admission order."""
        after = self.held.tick + 1
        wanted = [(request, request.base + after - 1, request.base + after) for request in due]
        wanted += [(request, request.computed, request.computed + tokens) for request, tokens in chunks]
        if len(wanted) > 1:
            wanted.sort(key=lambda growth: growth[0].order)
        return wanted

    def allocate(self, request: LiveRequest, tokens: int) -> bool:
        """As the base class, from the holder."""
        before = request.computed
        if not self.holder.grow(request, before, before + tokens):
            return False
        request.computed = before + tokens
        self.unsettled.append(request)
        return True

    def _fits(self, request: LiveRequest, match: Match, tokens: int) -> bool:
        holder = self.holder
        fits = holder.admits(request, tokens, self.reserve)
        if not fits and not (holder.chunks_matter and holder.admits(request, 1, self.reserve)):
            self.blocked = (request, self.version)
        return fits

    def _admit(self, plan: StepPlan, request: LiveRequest, match: Match, tokens: int) -> None:
        super()._admit(plan, request, match, tokens)
        self.holder.admit(request, tokens)
        self.unsettled.append(request)

    def preempt(self, request: LiveRequest, taken_back: int) -> None:
        """As the base class; the holder forgets the request."""
        self.holder.release(request)
        super().preempt(request, taken_back)

    def abort(self, request: LiveRequest) -> None:
        """As the base class; the holder forgets the request."""
        if request.status is Status.RUNNING:
            self.take_out(request)
            self.holder.release(request)
        super().abort(request)

    def _finish(self, request: LiveRequest) -> None:
        if request.status is Status.RUNNING:
            self.holder.release(request)
        super()._finish(request)
