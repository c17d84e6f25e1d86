"""Who waits, who runs, who is let in and who is sent back: the queues of vLLM's v1 scheduler.

Requests are admitted from the head of the waiting queue until something does not fit, and preempted by
recomputation: all blocks are freed, and what was computed may be found again in the prefix cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.kv_manager import KvManager
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.waiting import make_queue

if TYPE_CHECKING:
    from kvplan.engine.replacement.foresight import Foresight


class Admission(KvManager):
    """Queues of one engine instance, and what its requests hold.

    Attributes:
        waiting: requests that wait; running: those that run, in the order of admission; prefills: those of
            them whose prompt is being computed.
        blocked: who waits at the head and did not fit, and the ``version`` at which that was found.
        admissions: places given out in the order of admission.
    """

    draft_slots = 0
    """Rows of a step that each request takes beside its tokens."""

    def __init__(self, config: EngineConfig, foresight: Foresight | None, *, keep_schedule: bool) -> None:
        super().__init__(config, foresight)
        self.keep_schedule = keep_schedule
        self._watermark = config.watermark_blocks
        self.waiting = make_queue(config.policy)
        self.running: dict[LiveRequest, None] = {}
        self.prefills: list[LiveRequest] = []
        self.blocked: tuple[LiveRequest, int] | None = None
        self.queried_tokens = self.hit_tokens = 0
        self.preemptions = self.admissions = 0

    def add(self, request: LiveRequest) -> None:
        """Take in a new request."""
        self.waiting.append(request)

    @property
    def has_requests(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.running) or bool(self.waiting)

    @property
    def reserve(self) -> int:
        """Blocks that whoever is admitted has to leave free."""
        return self._watermark if self.running else 0

    def _admit_waiting(self, plan: StepPlan, budget: int, threshold: int, defer_prefills: bool) -> None:
        """Admit from the head of the queue until something does not fit."""
        config, waiting = self.config, self.waiting
        skipped: list[LiveRequest] = []
        while budget > 0 and waiting.items and len(self.running) < config.max_num_seqs:
            request = waiting.head()
            if request.stale:
                skipped.append(waiting.pop())
                continue
            if self.blocked is not None and self.blocked == (request, self.version):
                break
            match = self._match(request)
            hit_tokens = match.blocks * self.block_size
            tokens = self._first_chunk(request, hit_tokens, budget, threshold, defer_prefills)
            if tokens is not None and tokens < 0:
                skipped.append(waiting.pop())
                continue
            if not tokens or not self._fits(request, match, tokens):
                break
            waiting.pop()
            self._admit(plan, request, match, tokens)
            budget -= tokens + self.draft_slots
        for request in reversed(skipped):
            waiting.push_front(request)

    def _first_chunk(
        self, request: LiveRequest, start: int, budget: int, threshold: int, defer_prefills: bool
    ) -> int | None:
        """Tokens after its first ``start`` that a waiting request gets of the step.

        None or 0: it has to wait, and so do those behind it; below 0: it alone.
        """
        tokens = request.num_tokens - start
        if defer_prefills and tokens > 1:
            return None
        if 0 < threshold < tokens:
            tokens = threshold
        if tokens > budget:
            if not self.config.enable_chunked_prefill:
                return None
            tokens = budget
        return self.chunk(request, tokens, start)

    def chunk(self, request: LiveRequest, tokens: int, start: int) -> int:
        """How many of ``tokens`` a step computes of a prompt after the first ``start``: all that it may."""
        return tokens

    def _fits(self, request: LiveRequest, match: Match, tokens: int) -> bool:
        """``allocate_slots`` for a waiting request: blocks that leave the free queue against those in it."""
        size = self.block_size
        available = self.pool.blank + self.pool.cached - match.unheld + match.blocks - self.reserve
        if self.config.scheduler_reserve_full_isl and -(-request.num_tokens // size) > available:
            if not match.open_end:
                self.blocked = (request, self.version)
            return False
        return self.blocks_of(match.blocks * size + tokens) <= available

    def _admit(self, plan: StepPlan, request: LiveRequest, match: Match, tokens: int) -> None:
        size = self.block_size
        hit_tokens = match.blocks * size
        if self.caching:
            if request.status is Status.WAITING:
                self.queried_tokens += request.num_tokens
                self.hit_tokens += hit_tokens
            self.index.hold(request, match)
        request.computed = hit_tokens + tokens
        request.blocks = self.blocks_of(request.computed)
        new_blocks = request.blocks - match.blocks
        if new_blocks:
            self.index.take(new_blocks)
        self.begin(plan, request, hit_tokens, tokens)

    def begin(self, plan: StepPlan, request: LiveRequest, hit_tokens: int, tokens: int) -> None:
        """A request that was given its blocks runs from this step on."""
        self.enter(plan, request, hit_tokens)
        self.prefills.append(request)
        plan.add(request, hit_tokens, tokens)
        if self.keep_schedule:
            plan.scheduled.append((request, tokens))

    def enter(self, plan: StepPlan, request: LiveRequest, hit_tokens: int) -> None:
        """A request takes its place among those that run."""
        if request.cached_tokens < 0:
            request.cached_tokens = hit_tokens
            plan.admitted.append(request)
        request.status = Status.RUNNING
        request.order = self.admissions
        self.admissions += 1
        plan.carries_prefill |= request.num_tokens - hit_tokens > 1
        self.publish(request)
        self.running[request] = None

    def preempt(self, request: LiveRequest, taken_back: int) -> None:
        """Recompute preemption: all blocks are freed, outputs are kept.

        ``taken_back`` of its computed tokens were granted in this very step and will not be computed.
        """
        self.give_back(request)
        self.version += 1
        self.preemptions += 1
        request.status = Status.PREEMPTED
        request.computed = 0
        request.stale += request.placeholders
        request.placeholders = 0
        request.preemptions += 1
        del self.running[request]
        self.waiting.push_front(request)
