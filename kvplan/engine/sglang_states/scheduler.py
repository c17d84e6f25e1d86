"""SGLang's scheduler above two pools: tokens, and slots for recurrent states."""

from __future__ import annotations

from typing import cast

from kvplan.engine.sglang.admission import PrefillBudget, Verdict
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.found import Found
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.scheduler import SglangScheduler
from kvplan.engine.sglang_states.node import StateNode
from kvplan.engine.sglang_states.pool import StatePool
from kvplan.engine.sglang_states.request import StateRequest


class StateScheduler(SglangScheduler):
    """What is different: a prefix counts only up to a state, which is copied when a request is let in.

    Admission asks for tokens alone; states are always enough for those that may run.

    Attributes:
        passed_tokens: tokens of first admissions that the tree had, with a state behind them or not.
        cut_short: first admissions that found fewer tokens than the tree had, for want of a state.
    """

    request_type: type[SglangRequest] = StateRequest
    pool: StatePool

    def __init__(self, config: SglangConfig, pool: StatePool, *, keep_schedule: bool = False) -> None:
        super().__init__(config, pool, keep_schedule=keep_schedule)
        self.passed_tokens = self.cut_short = 0
        self._mixed: set[int] = set()
        if config.enable_mixed_chunk:
            self.pool.untracked = self._mixed

    @property
    def found_tokens(self) -> int:
        """Tokens of first admissions with a state behind them."""
        return self.hit_tokens

    def _add_one(
        self, request: SglangRequest, budget: PrefillBudget, extends: list[SglangRequest]
    ) -> Verdict:
        """As the base class, with a slot for the state that is found."""
        request = cast(StateRequest, request)
        pool, tokens = self.pool, request.tokens
        index = pool.index
        found: Found[StateNode] = Found(0, index.root, 0, index.root)
        if pool.caching:
            found = index.look(request.content, tokens - 1)
        hit, node, passed = found.hit, found.node, found.passed
        index.lock(node)
        if hit:
            pool.claim(request)
        request.missing = tokens - hit
        extend = budget.extend(tokens, hit, hit, request.max_new_tokens - request.outputs, extends)
        if isinstance(extend, Verdict):
            index.unlock(node)
            pool.give_back(request)
            return extend
        request.branch = passed - passed % pool.grid
        if request.cached_tokens < 0:
            request.cached_tokens = hit
            self.queried_tokens += tokens
            self.hit_tokens += hit
            self.passed_tokens += passed
            self.cut_short += passed > hit
        return self._take_in(request, node, hit, extend, budget, extends)

    def _allocate_extend(self, plan: SglangPlan) -> None:
        """As the base class, after slots for states; then it is known where prefill can keep some."""
        pool = self.pool
        pool.provide(plan.extends)
        super()._allocate_extend(plan)
        if pool.spares:
            for request in plan.extends:
                pool.plan_tracking(cast(StateRequest, request))

    def _decode(self, plan: SglangPlan) -> None:
        """As the base class; in a mixed batch nobody who decodes keeps a state."""
        super()._decode(plan)
        if plan.extends:
            self._mixed.add(plan.tick)

    def deliver(self, plan: SglangPlan) -> list[SglangRequest]:
        """As the base class; who was given up may be in the batch that is in flight as well."""
        decoding = self.decoding
        for request in self.aborting if plan.decodes else ():
            if request.ticket:
                cast(StateRequest, request).unsettled = decoding.tick - plan.tick
        for request, end in zip(plan.extends, plan.ends, strict=True):
            if request.aborted and request.ticket:
                cast(StateRequest, request).unsettled = request.base + decoding.tick - end
        return super().deliver(plan)
