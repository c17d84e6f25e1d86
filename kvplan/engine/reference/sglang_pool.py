"""Queue, pool and tree of the oracle of SGLang's scheduler, and what every request has of them."""

from __future__ import annotations

from kvplan.engine.errors import OutOfKvMemory
from kvplan.engine.reference.radix import TokenTree
from kvplan.engine.reference.sglang_policy import Policy
from kvplan.engine.reference.sglang_state import SglangPlan, SglangState
from kvplan.engine.sglang.config import RETRACT_DECODE_STEPS, SglangConfig
from kvplan.engine.sglang.queue import PUSHED_OUT, QUEUE_FULL
from kvplan.engine.sglang.radix_tree import checkpoint, drop, release


class ReferenceSglangPool:
    """Who waits, and what tokens are whose."""

    def __init__(self, config: SglangConfig) -> None:
        self.config = config
        self.tree = self.make_tree()
        self.caching = not config.disable_radix_cache
        self.policy = Policy(config, self.tree, self.caching)
        self.free = config.pool_tokens
        self.waiting: list[SglangState] = []
        self.turned_away: list[tuple[SglangState, str]] = []
        """Who had no place in the queue, and why."""
        self.entered = 0
        self.processed = 0
        """``processed_tokens_counter``."""
        self.preemptions = 0
        self.allocated = 0

    def make_tree(self) -> TokenTree:
        """What is cached."""
        return TokenTree(self.config.page_size, self.config.leaf_key, self.config.tree)

    def enter(self, state: SglangState) -> None:
        """``_add_request_to_queue``, after ``_abort_on_queued_limit``."""
        most = self.config.max_queued_requests
        if most is not None and len(self.waiting) + 1 > most:
            sign = 1 if self.config.schedule_low_priority_values_first else -1
            last = max(self.waiting, key=lambda other: (sign * other.request.priority, other.queued))
            better = sign * state.request.priority < sign * last.request.priority
            if not (self.config.enable_priority_scheduling and better):
                self.turned_away.append((state, QUEUE_FULL))
                return
            self.waiting.remove(last)
            self.turned_away.append((last, PUSHED_OUT))
        self.entered += 1
        state.queued, state.queued_after = self.entered, self.processed
        self.waiting.append(state)

    def _decode_fits(self, states: list[SglangState]) -> bool:
        """``check_decode_mem``."""
        page = self.config.page_size
        needed = sum(page for state in states if state.extend_end % page == 0)
        self._make_room(needed)
        return self._room >= needed

    def _let_go(self, state: SglangState, remaining: int) -> None:
        """``release_req``: nothing is put into the tree, room for the others is made at once."""
        self._give_back(state)
        state.prefix = state.extend_end = state.matched = 0
        self._make_room(remaining * RETRACT_DECODE_STEPS)

    def _send_back(self, state: SglangState, remaining: int) -> None:
        """It is let go and will wait again; who is aborted does not."""
        self._let_go(state, remaining)
        state.preemptions += 1
        self.preemptions += 1

    @property
    def _room(self) -> int:
        """Tokens that can be handed out without evicting."""
        return self.free

    def _make_room(self, tokens: int) -> None:
        """``evict_from_tree_cache``."""
        if self.free < tokens:
            self.free += self.tree.evict(tokens - self.free)

    def _allocate_extend(self, plan: SglangPlan) -> None:
        page = self.config.page_size
        asked = sum(state.extend_end - state.prefix for state in plan.extends)
        self._make_room(asked if page == 1 else asked + len(plan.extends) * page)
        needed = sum(self._missing(state, state.extend_end) for state in plan.extends)
        if needed > self._room:
            raise OutOfKvMemory("prefill", needed, self._room)
        for state in plan.extends:
            plan.before[state] = state.prefix
            plan.after[state] = state.extend_end
            self._grow(state, state.extend_end)

    def _allocate_decode(self, states: list[SglangState], plan: SglangPlan) -> None:
        """``prepare_for_decode``."""
        self._make_room(len(states) * self.config.page_size)
        needed = sum(self._missing(state, state.extend_end + 1) for state in states)
        if needed > self._room:
            raise OutOfKvMemory("decode", needed, self._room)
        for state in states:
            plan.before[state] = state.extend_end
            state.extend_end += 1
            plan.after[state] = state.extend_end
            self._grow(state, state.extend_end)
        plan.decodes = list(states)

    def _missing(self, state: SglangState, tokens: int) -> int:
        page = self.config.page_size
        return -(-tokens // page) * page - state.held.allocated

    def _grow(self, state: SglangState, tokens: int) -> None:
        missing = self._missing(state, tokens)
        self.free -= missing
        self.allocated += missing
        state.held.allocated += missing

    def _checkpoint(self, state: SglangState, tokens: int) -> None:
        if self.caching:
            self.free += checkpoint(self.tree, state.held, tokens)

    def _finish(self, state: SglangState) -> None:
        if self.caching:
            self.free += release(self.tree, state.held, state.extend_end)
        else:
            self.free += state.held.private
        state.holding = None

    def _give_back(self, state: SglangState) -> None:
        """Free what is the request's own, and let go of the tree."""
        self.free += state.held.private
        drop(self.tree, state.held)
        state.holding = None
