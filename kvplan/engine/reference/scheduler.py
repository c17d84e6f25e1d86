"""vLLM's v1 ``Scheduler``: which request computes how many tokens in the next step."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvplan.engine.chunking import boundary_aligned
from kvplan.engine.config import EngineConfig
from kvplan.engine.reference.cache import KvCache
from kvplan.engine.reference.queue import WaitingQueue
from kvplan.engine.reference.state import RequestState, Status


@dataclass(slots=True)
class StepPlan:
    """One ``schedule()`` call: tokens per request in scheduling order, and who was preempted for it.

    ``computed_before`` and ``sampling`` describe the scheduled requests at the time of the call.
    """

    tokens: dict[RequestState, int] = field(default_factory=dict)
    preempted: list[RequestState] = field(default_factory=list)
    computed_before: dict[RequestState, int] = field(default_factory=dict)
    sampling: set[RequestState] = field(default_factory=set)
    free_blocks: int = 0
    running: int = 0
    waiting: int = 0
    carries_prefill: bool = False
    """Whether a prompt was given tokens, also if they were taken back by a preemption."""


class Scheduler:
    """The scheduler's queues and its two entry points, ``schedule`` and ``deliver``."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.cache = KvCache(config)
        self.waiting = WaitingQueue(config.policy)
        self.running: list[RequestState] = []
        self.queried_tokens = 0
        self.hit_tokens = 0
        self.preemptions = 0
        self._steps_since_prefill = config.prefill_schedule_interval
        self._prefill_capacity_bound = False

    def add(self, state: RequestState) -> None:
        """Take in a new request."""
        self.waiting.append(state)

    @property
    def has_requests(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.running) or bool(self.waiting)

    # -- schedule ---------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan:
        """Plan the next step and account for it as if it had run."""
        plan = StepPlan()
        self.cache.start_step()
        threshold = self._prefill_threshold()
        defer_prefills = self._defers_prefills()
        budget = self._schedule_running(plan, threshold, defer_prefills)
        if not plan.preempted:
            self._admit_waiting(plan, budget, threshold, defer_prefills)
            if not defer_prefills:
                self._prefill_capacity_bound = bool(self.waiting)
        plan.free_blocks = self.cache.pool.free_blocks
        plan.running = len(self.running)
        plan.waiting = len(self.waiting)
        self._advance(plan)
        return plan

    def _prefill_threshold(self) -> int:
        """``long_prefill_token_threshold`` as it applies now; 0 is none."""
        threshold = self.config.long_prefill_token_threshold
        requests = len(self.running) + len(self.waiting)
        if requests == 1:
            return 0
        if threshold and self.config.long_prefill_adaptive and requests:
            return max(threshold, self.config.max_num_batched_tokens // requests)
        return threshold

    def _defers_prefills(self) -> bool:
        """``prefill_schedule_interval``: whether this step computes no prompt tokens."""
        throttled = self._steps_since_prefill < self.config.prefill_schedule_interval
        if not throttled or self._prefill_capacity_bound:
            return False
        return any(not state.is_prefill_chunk for state in self.running)

    def _schedule_running(self, plan: StepPlan, threshold: int, defer_prefills: bool) -> int:
        """Give running requests their tokens, in admission order; returns the budget left."""
        budget = self.config.max_num_batched_tokens
        index = 0
        while index < len(self.running) and budget > 0:
            state = self.running[index]
            new_tokens = self._tokens_for_running(state, threshold, budget, defer_prefills)
            if new_tokens == 0:
                index += 1
                continue
            fits = self.cache.allocate(state, new_tokens)
            while not fits:
                position, victim = self._pick_victim()
                del self.running[position]
                if position < index:
                    index -= 1
                if victim in plan.tokens:
                    budget += plan.tokens.pop(victim)
                    del plan.computed_before[victim]
                self._preempt(victim)
                plan.preempted.append(victim)
                if victim is state:
                    break
                fits = self.cache.allocate(state, new_tokens)
            if not fits:
                # The victim was the request itself; the next one now stands at the same index.
                continue
            plan.tokens[state] = new_tokens
            plan.computed_before[state] = state.num_computed
            plan.carries_prefill |= state.is_prefill_chunk
            budget -= new_tokens
            index += 1
        return budget

    def _tokens_for_running(
        self, state: RequestState, threshold: int, budget: int, defer_prefills: bool
    ) -> int:
        if (
            state.placeholders > 0
            and state.num_computed + 2 - state.placeholders >= state.prompt_tokens + state.max_tokens
        ):
            return 0  # the step in flight certainly brings the last token
        if defer_prefills and state.is_prefill_chunk:
            return 0
        behind = state.num_tokens + state.placeholders - state.num_computed
        if 0 < threshold < behind:
            behind = threshold
        new_tokens = max(0, min(behind, budget, self.config.max_model_len - 1 - state.num_computed))
        return boundary_aligned(state, new_tokens, state.num_computed, self.config)

    def _pick_victim(self) -> tuple[int, RequestState]:
        if self.config.policy == "fcfs":
            return len(self.running) - 1, self.running[-1]
        position = max(
            range(len(self.running)),
            key=lambda i: (self.running[i].request.priority, self.running[i].request.arrival_s, -i),
        )
        return position, self.running[position]

    def _preempt(self, state: RequestState) -> None:
        """Recompute preemption: all blocks are freed, outputs are kept."""
        self.cache.release(state)
        state.status = Status.PREEMPTED
        state.num_computed = 0
        state.stale += state.placeholders
        state.placeholders = 0
        state.preemptions += 1
        self.preemptions += 1
        self.waiting.push_front(state)

    def _admit_waiting(self, plan: StepPlan, budget: int, threshold: int, defer_prefills: bool) -> None:
        """Admit from the head of the queue until something does not fit."""
        skipped: list[RequestState] = []
        while budget > 0 and self.waiting and len(self.running) < self.config.max_num_seqs:
            state = self.waiting.head()
            if state.stale:
                skipped.append(self.waiting.pop())
                continue
            hit = self.cache.lookup(state)
            new_tokens = state.num_tokens - hit.tokens
            if defer_prefills and new_tokens > 1:
                break
            if 0 < threshold < new_tokens:
                new_tokens = threshold
            if not self.config.enable_chunked_prefill and new_tokens > budget:
                break
            new_tokens = min(new_tokens, budget)
            new_tokens = boundary_aligned(state, new_tokens, hit.tokens, self.config)
            if new_tokens == 0:
                break
            watermark = self.config.watermark_blocks if self.running else 0
            if not self.cache.allocate(
                state,
                new_tokens,
                hit,
                full_sequence_must_fit=self.config.scheduler_reserve_full_isl,
                reserve_blocks=watermark,
            ):
                break
            self.waiting.pop()
            if state.status is Status.WAITING and self.config.enable_prefix_caching:
                self.queried_tokens += state.num_tokens
                self.hit_tokens += hit.tokens
            if state.cached_tokens < 0:
                state.cached_tokens = hit.tokens
            state.status = Status.RUNNING
            state.num_computed = hit.tokens
            state.is_prefill_chunk = state.num_tokens - hit.tokens > 1
            plan.carries_prefill |= state.is_prefill_chunk
            self.running.append(state)
            plan.tokens[state] = new_tokens
            plan.computed_before[state] = hit.tokens
            budget -= new_tokens
        for state in reversed(skipped):
            self.waiting.push_front(state)

    def _advance(self, plan: StepPlan) -> None:
        """``_update_after_schedule``: computed tokens move before the step runs."""
        for state, count in plan.tokens.items():
            state.num_computed += count
            state.in_flight += count
            state.is_prefill_chunk = state.num_computed < state.num_tokens + state.placeholders
            if not state.is_prefill_chunk:
                plan.sampling.add(state)
                if self.config.async_scheduling:
                    state.placeholders += 1
        if plan.carries_prefill:
            self._steps_since_prefill = 1
        elif plan.tokens:
            self._steps_since_prefill += 1

    # -- after the step ---------------------------------------------------------------------------------

    def deliver(self, plan: StepPlan) -> list[RequestState]:
        """``update_from_output``: hand out sampled tokens; returns the requests that finished, in order."""
        finished = []
        for state, count in plan.tokens.items():
            state.in_flight -= count
            if state not in plan.sampling or state.status is Status.FINISHED:
                continue
            state.num_tokens += 1
            done = (
                state.num_output_tokens >= state.max_tokens or state.num_tokens >= self.config.max_model_len
            )
            if state.stale and state.status is not Status.RUNNING:
                state.stale -= 1
            elif self.config.async_scheduling:
                state.placeholders -= 1
                self.cache.publish(state, state.num_computed - state.placeholders)
            if done:
                self._finish(state)
                finished.append(state)
        return finished

    def abort(self, state: RequestState) -> None:
        """``finish_requests``: a client has gone; what is in flight for it is ignored when it comes."""
        self._finish(state)

    def _finish(self, state: RequestState) -> None:
        if state.status is Status.RUNNING:
            self.running.remove(state)
        else:
            self.waiting.remove(state)
        state.status = Status.FINISHED
        self.cache.release(state)
