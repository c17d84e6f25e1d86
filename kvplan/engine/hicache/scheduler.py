"""SGLang's scheduler above a cache that goes on in the host."""

from __future__ import annotations

from kvplan.engine.hicache.copies import Copies
from kvplan.engine.hicache.index import LOAD_BACK_TOKENS, HierarchicalIndex
from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.sglang.admission import PrefillBudget, Verdict
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.scheduler import SglangScheduler


class HierarchicalScheduler(SglangScheduler):
    """What is different: requests may find part of their prefix in the host.

    The budget lets a request in as if that part were computed, and is charged without it; the load takes its
    room at once.

    Args:
        config, keep_schedule: as of ``SglangScheduler``.
        pool: above a ``HierarchicalIndex``.

    Attributes:
        host_tokens: tokens that first admissions loaded.
        cached_tokens: tokens that first admissions did not compute.
        loads: admissions that loaded something.
        refused: admissions that computed a prefix again although the host had it.
    """

    def __init__(self, config: SglangConfig, pool: TokenPool, *, keep_schedule: bool = False) -> None:
        super().__init__(config, pool, keep_schedule=keep_schedule)
        assert isinstance(pool.tree, HierarchicalIndex)
        self.index = pool.tree
        self.copies: Copies = self.index.copies
        self.host_tokens = self.cached_tokens = self.loads = self.refused = 0
        self._drained_s: float | None = None

    def add(self, request: SglangRequest) -> None:
        """As the base class; an engine that has been idle since its copies were through has forgotten its
        estimate of answers."""
        if self._drained_s is not None and self._drained_s < request.request.arrival_s:
            super().idle()
        self._drained_s = None
        super().add(request)

    def idle(self) -> None:
        """Nothing is left to do but to wait for copies, which is not idle yet (``is_fully_idle``)."""
        self._drained_s = self.copies.last_s

    def schedule(self) -> SglangPlan:
        """As the base class, after a look at what has arrived."""
        self.copies.loaded_s = 0.0
        self.index.settle()
        return super().schedule()

    def _add_one(
        self, request: SglangRequest, budget: PrefillBudget, extends: list[SglangRequest]
    ) -> Verdict:
        """As the base class, with what the host has of the request."""
        index, tokens = self.index, request.tokens
        answer = request.max_new_tokens - request.outputs
        held, last = index.match(request.content, self.pool.known(tokens - 1))
        node, cached = index.last_on_device(last), last.end
        index.lock(node)
        request.missing = tokens - held
        extend = budget.extend(tokens, held, cached, answer, extends)
        if not isinstance(extend, Verdict) and cached > held:
            if self._load(last, cached - held):
                index.unlock(node)
                index.lock(last)
                node = last
            else:
                cached = held
                extend = budget.extend(tokens, held, held, answer, extends)
        if isinstance(extend, Verdict):
            index.unlock(node)
            return extend
        if request.cached_tokens < 0:
            self._count(request, held, cached)
        return self._take_in(request, node, cached, extend, budget, extends)

    def _count(self, request: SglangRequest, held: int, cached: int) -> None:
        """Write down what a request has found when it is let in first."""
        request.cached_tokens = cached
        self.queried_tokens += request.tokens
        self.hit_tokens += held
        self.host_tokens += cached - held
        self.cached_tokens += cached

    def _load(self, last: HostedNode, tokens: int) -> bool:
        """Bring back what a request found in the host, if it is long enough and there is room
        (``init_load_back``); whether it was."""
        index, pool = self.index, self.pool
        loaded = False
        if tokens >= LOAD_BACK_TOKENS:
            # Making room may push others out of the host.
            index.lock(last)
            pool.make_room(tokens)
            loaded = pool.free >= tokens
            if loaded:
                pool.free -= index.load(last)
                pool.allocated += tokens
            index.unlock(last)
        if loaded:
            self.loads += 1
        else:
            self.refused += 1
        return loaded

    def _allocate_extend(self, plan: SglangPlan) -> None:
        """As the base class; the batch is known now, so its loads begin."""
        self.copies.start_loads()
        super()._allocate_extend(plan)
