"""The oracle of SGLang's scheduler: every request looked at in every step, every token in the tree.

Verified by recordings of the methods of 0.5.23 themselves: ``Scheduler.get_next_batch_to_run``,
``PrefillAdder``, ``SchedulePolicy``, ``ScheduleBatch.retract_decode``, and the caches under them. The event
loop around them is read from its source. Names follow the source.
"""

from __future__ import annotations

from kvplan.engine.recorder import Metric
from kvplan.engine.reference.radix import Seen
from kvplan.engine.reference.sglang_budget import Budget
from kvplan.engine.reference.sglang_pool import ReferenceSglangPool
from kvplan.engine.reference.sglang_state import SglangPlan, SglangState
from kvplan.engine.sglang.config import RETRACT_DECODE_STEPS, SglangConfig
from kvplan.engine.sglang.radix_tree import Holding
from kvplan.traces.request import Request


class ReferenceSglangScheduler(ReferenceSglangPool):
    """Queues, pool and tree of one engine; ``schedule`` makes a batch, ``deliver`` takes its result."""

    budget_class = Budget
    state_class = SglangState

    def __init__(self, config: SglangConfig) -> None:
        super().__init__(config)
        self.running: list[SglangState] = []
        """``running_batch.reqs``: finished requests stay until the next step filters the batch."""
        self.finishing: list[SglangState] = []
        """Taken out of the running batch, as the output in flight is their last."""
        self.full = False
        self.chunked: SglangState | None = None
        self.last: SglangPlan | None = None
        self.begun_with = 0
        """``extend_num_tokens`` of the running batch, which was a prefill batch once."""
        self.preempt_list: list[SglangState] = []
        self.ratio = config.initial_ratio
        self.deferred_rounds = 0
        """``_prefill_decode_interval_remaining``."""
        self.queried_tokens = 0
        self.hit_tokens = 0

    def add(self, request: Request) -> SglangState:
        """A new request."""
        state = self.state_class(request, self.tree)
        self.enter(state)
        return state

    def abort(self, state: SglangState) -> None:
        """``abort_request``: who waits leaves, a prompt that is computed in chunks is dropped, and who runs
        finishes with the next output."""
        state.aborted = True
        if state in self.waiting:
            self.waiting.remove(state)
        elif state is self.chunked:
            # ``process_pending_chunked_abort``; the chunk in flight is drained without effect.
            self.chunked = None
            self._give_back(state)

    @property
    def has_requests(self) -> bool:
        """Whether any request is unfinished or not yet filtered out."""
        return bool(self.waiting or self.running or self.chunked or self.last)

    def schedule(self) -> SglangPlan:
        """``get_next_batch_to_run``."""
        if self.chunked is not None and self.chunked.extend_end > self.chunked.prefix:
            self._checkpoint(self.chunked, self.chunked.extend_end)
            self.chunked.prefix = self.chunked.extend_end
        self._merge_last()
        self._filter_running()
        plan = None if self._should_defer_prefill() else self._prefill_batch()
        if plan is None:
            plan = self._decode_batch()
        elif self.config.prefill_decode_interval:
            self.deferred_rounds = self.config.prefill_decode_interval
        plan.retracted = [*self.preempt_list, *plan.retracted]
        self.preempt_list = []
        plan.free = self.free + self.tree.evictable
        mixed = [state for state in plan.decodes if state not in self.running]
        plan.running = len(self.running) + len(self.finishing) + len(plan.extends) + len(mixed)
        plan.waiting = len(self.waiting)
        self.last = None if plan.empty else plan
        if plan.extends:
            self.processed += plan.tokens
        elif plan.decodes:
            self.processed += self.begun_with
        return plan

    def sections(self) -> dict[str, list[Metric]]:
        """What it reports beyond totals."""
        return {}

    def idle(self) -> None:
        """Nothing is left to do (``on_idle``)."""
        self.ratio = self.config.initial_ratio
        self.deferred_rounds = 0

    def _should_defer_prefill(self) -> bool:
        if self.deferred_rounds == 0:
            return False
        if len(self.running) < self.config.prefill_decode_interval_min_bs:
            self.deferred_rounds = 0
            return False
        self.deferred_rounds -= 1
        return True

    def deliver(self, plan: SglangPlan) -> list[SglangState]:
        """Results of a batch: outputs appended, computed tokens put into the tree; returns who finished.

        With overlap the next batch is made already: of requests that were retracted for it the output is
        lost, and finished ones have KV of one more token.
        """
        finished: list[SglangState] = []
        for state in (*plan.extends, *plan.decodes):
            if state is plan.chunked or state.finished or state.holding is None:
                continue
            state.outputs += 1
            state.gone = state.aborted
            if state.finished:
                self._finish(state)
                finished.append(state)
            elif state not in plan.decodes:
                self._checkpoint(state, plan.after[state])
        self.finishing = []
        return finished

    # -- merging, prefill -------------------------------------------------------------------------------

    def _merge_last(self) -> None:
        last = self.last
        if last is None or not last.extends:
            return
        batch = [*last.extends, *last.decodes]
        keep = [
            state
            for state in batch
            if not state.finished and state is not last.chunked and state is not self.chunked
        ]
        if len(keep) < len(batch):
            self.full = False
        if keep:
            if not self.running:
                self.full = False
                self.begun_with = last.tokens
            self.running.extend(keep)

    def _filter_running(self, excluded: list[SglangState] | None = None) -> None:
        """``filter_batch``: whoever leaves makes room for a prefill."""
        keep = [state for state in self.running if not state.finished and state not in (excluded or [])]
        if len(keep) < len(self.running):
            self.full = False
        self.running = keep

    def _finishing_in_flight(self) -> list[SglangState]:
        """``_reqs_finishing_inflight``: with overlap, whose last output comes with the batch in flight."""
        if self.config.disable_overlap_schedule or self.last is None:
            return []
        queued = {*self.last.extends, *self.last.decodes}
        return [
            state for state in self.running if state in queued and state.outputs + 1 >= state.max_new_tokens
        ]

    def _prefill_batch(self) -> SglangPlan | None:
        """``get_new_batch_prefill``."""
        config = self.config
        if not self.running or config.preempts:
            self.full = False
        if (self.full or not self.waiting) and self.chunked is None:
            return None
        # Rows are counted too, but whoever has one is in the batch, or is a chunk that brings it along.
        allocatable = config.max_running_requests - len(self.running)
        if self.chunked is None and self.running and allocatable < config.least_free:
            return None
        if allocatable <= 0 and self.chunked is None and not config.preempts:
            self.full = True
            return None
        self.policy.sort(self.waiting, self.processed)
        budget = self.budget_class(self, len(self.running) if config.enable_mixed_chunk else 0)
        batch: list[SglangState] = []
        if self.chunked is not None:
            self.chunked = self._continue_chunked(self.chunked, budget, batch)
        # A chunk for which nothing is left keeps its row.
        rows = config.max_running_requests - (self.chunked is not None and not batch)
        budget.whole = config.schedule_policy == "shortest-prefill-first" and self.chunked is not None
        for state in list(self.waiting):
            if budget.verdict() == "other":
                break
            if len(batch) >= rows - len(self.running):
                self.full = True
            if self.full and not (config.preempts and self._preempt_to_schedule(state, budget)):
                break
            verdict = self._add_one(state, budget, batch)
            if verdict != "continue":
                if verdict == "no token":
                    self.full = bool(batch or self.running)
                break
        self.waiting = [state for state in self.waiting if state not in batch]
        for state in self.preempt_list:
            self.enter(state)
        if not batch:
            return None
        plan = SglangPlan(extends=batch, chunked=self.chunked)
        self._allocate_extend(plan)
        if self.config.enable_mixed_chunk and self.running:
            self.finishing = self._finishing_in_flight()
            self._filter_running(self.finishing)
            # Where the prefill has left no room, the decodes sit this step out.
            if self.running and self._decode_fits(self.running):
                self._allocate_decode(self.running, plan)
                self.running = []
        return plan

    def _continue_chunked(
        self, state: SglangState, budget: Budget, batch: list[SglangState]
    ) -> SglangState | None:
        room = budget.chunk_room()
        left = state.tokens - state.prefix
        limit = self.policy.chunk_limit(left, self.waiting, budget.chunk_tokens or 0)
        if limit is not None:
            room = min(room, limit)
        extend = min(left, room)
        if extend:
            batch.append(state)
        state.extend_end = state.prefix + extend
        whole = left <= room
        if extend:
            budget.charge(extend, min(state.max_new_tokens, self.config.clip_max_new_tokens) if whole else 0)
        return None if whole else state

    def _add_one(self, state: SglangState, budget: Budget, batch: list[SglangState]) -> str:
        most = self.config.prefill_max_requests
        seen = self._look(state)
        hit = seen.usable
        state.filled, state.matched = state.tokens, hit
        if most is not None and len(batch) >= most:
            return "other"
        mark = self._hold(state, seen)
        extend = budget.extend(state, hit, batch)
        if isinstance(extend, str):
            self.tree.let_go(seen.node, mark)
            return extend
        self._take_in(state, seen, mark)
        chunked = hit + extend < state.tokens
        state.extend_end = hit + extend
        batch.append(state)
        if chunked:
            assert self.chunked is None
            self.chunked = state
        budget.charge(extend, 0 if chunked else min(state.max_new_tokens, self.config.clip_max_new_tokens))
        return budget.verdict()

    def _look(self, state: SglangState) -> Seen:
        """``init_next_round_input``: what is cached of it."""
        if not self.caching:
            return Seen(0, self.tree.root, 0)
        return self.tree.look(state.content, state.tokens - 1)

    def _hold(self, state: SglangState, seen: Seen) -> int:
        """``_lock_node``: what was found stays while the books are looked at."""
        del state
        return self.tree.hold(seen.node)

    def _take_in(self, state: SglangState, seen: Seen, mark: int) -> None:
        """``init_req``'s books: what a request in the batch holds."""
        hit, node = seen.usable, seen.node
        state.holding = Holding(
            state.content, state.prompt_tokens, state.request.priority, node, shared=hit, allocated=hit
        )
        state.mark = mark
        state.prefix = hit
        if state.cached_tokens < 0:
            state.cached_tokens = hit
            self.queried_tokens += state.tokens
            self.hit_tokens += hit

    def _preempt_to_schedule(self, state: SglangState, budget: Budget) -> bool:
        """Whether running requests have made room. Those that go together are a set in SGLang, here in the
        order in which they were found."""
        config = self.config
        sign = 1 if config.schedule_low_priority_values_first else -1
        answer = min(state.max_new_tokens, config.clip_max_new_tokens)
        needed = state.filled - state.matched + answer - budget.total
        preemptible: list[SglangState] = []
        for other in sorted(self.running, key=lambda it: (it.request.priority * -sign, -it.queued)):
            difference = (state.request.priority - other.request.priority) * -sign
            if difference <= config.priority_scheduling_preemption_threshold:
                break
            preemptible.append(other)
            needed -= budget.offset(other)
            if needed <= 0:
                break
        if not preemptible or needed > 0:
            return False
        for other in list(self.running):
            if other in preemptible:
                budget.total_offset -= budget.offset(other)
                self.running.remove(other)
                self._send_back(other, len(self.running))
        self.preempt_list += preemptible
        return True

    # -- decode -----------------------------------------------------------------------------------------

    def _decode_batch(self) -> SglangPlan:
        """``update_running_batch``."""
        plan = SglangPlan()
        if not self.running:
            return plan
        self.finishing = self._finishing_in_flight()
        self._filter_running(self.finishing)
        if not self.running:
            return plan
        if self._decode_fits(self.running):
            self.ratio = max(self.ratio - self.config.ratio_decay, self.config.least_ratio)
        elif self.finishing:
            # Those give their memory back with the result in flight: the others wait for it.
            return plan
        else:
            self._retract(plan)
            if plan.retracted or plan.refused:
                self.full = False
            if not self.running:
                return plan
        self._allocate_decode(self.running, plan)
        return plan

    def _retract(self, plan: SglangPlan) -> None:
        sign = 1 if self.config.schedule_low_priority_values_first else -1
        by_priority = self.config.retraction_policy == "priority"

        def importance(state: SglangState) -> tuple[int, int, int]:
            priority = state.request.priority * -sign if by_priority else 0
            return priority, state.outputs, -state.prompt_tokens

        keep = sorted(self.running, key=importance, reverse=True)
        first = True
        while (first or not self._decode_fits(keep)) and len(keep) > 1:
            first = False
            victim = keep.pop()
            self._send_back(victim, len(keep))
            plan.retracted.append(victim)
        if not self._decode_fits(keep):
            last = keep.pop()
            self._let_go(last, 0)
            plan.refused.append(last)
        self.running = keep
        decoded = sum(state.outputs for state in keep) + RETRACT_DECODE_STEPS * len(keep)
        self.ratio = min(1.0, decoded / (sum(state.max_new_tokens for state in keep) + 1))
        for victim in plan.retracted:
            self.enter(victim)

    def holders(self) -> set[SglangState]:
        """Requests that have something in the pool."""
        holders = {*self.running, *([self.chunked] if self.chunked else [])}
        if self.last is not None:
            holders |= {*self.last.extends, *self.last.decodes}
        return {state for state in holders if state.holding is not None}

    def check(self) -> None:
        """Assert the conservation law: free + referenced + cached == total."""
        self.tree.check()
        private = sum(state.held.private for state in self.holders())
        assert self.free >= 0
        assert self.free + private + self.tree.protected + self.tree.evictable == self.config.pool_tokens
