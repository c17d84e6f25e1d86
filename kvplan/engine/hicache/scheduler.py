"""SGLang's scheduler above a cache that goes on in the host."""

from __future__ import annotations

from kvplan.engine.hicache.copies import Copies
from kvplan.engine.hicache.index import LOAD_BACK_TOKENS, HierarchicalIndex
from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.sglang.admission import PrefillBudget, Verdict
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.found import Found
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
        self.open_host()

    def open_host(self) -> None:
        """Begin with nothing on its way."""
        assert isinstance(self.pool.tree, HierarchicalIndex)
        self.index = self.pool.tree
        self.copies: Copies = self.index.copies
        self.host_tokens = self.cached_tokens = self.loads = self.refused = 0
        self._drained_s: float | None = None

    def add(self, request: SglangRequest) -> None:
        """As the base class, which it wakes for."""
        self.wake(request.request.arrival_s)
        super().add(request)

    def wake(self, now: float) -> None:
        """Something may be to do again: who has been idle since its copies were through has forgotten its
        estimate of answers."""
        if self._drained_s is not None and self._drained_s < now:
            super().idle()
        self._drained_s = None

    def idle(self) -> None:
        """Nothing is left to do but to wait for copies, which is not idle yet (``is_fully_idle``)."""
        self.pause.end()
        self._drained_s = self.copies.last_s

    def settle(self) -> SglangPlan | None:
        """As the base class, after a look at what has arrived."""
        self.copies.loaded_s = 0.0
        self.index.settle()
        return super().settle()

    def _add_one(
        self, request: SglangRequest, budget: PrefillBudget, extends: list[SglangRequest]
    ) -> Verdict:
        """As the base class, with what the host has of the request."""
        tokens = request.tokens
        found = self.index.look(request.content, self.pool.known(tokens - 1))
        held, node, last = found.hit, found.node, found.last
        cached = held + found.below
        self._begin(request, found)
        request.missing = tokens - held
        extend = self._extend(request, found, cached, budget, extends)
        if not isinstance(extend, Verdict) and last is not node:
            if self._bring(request, found):
                self._leave(request, node)
                self._hold(request, last)
                node = last
                # What was on the device behind the last that could be used there comes for nothing.
                extend = min(extend, tokens - last.end)
                cached = last.end
            elif found.below:
                cached = held
                extend = self._extend(request, found, held, budget, extends)
        if isinstance(extend, Verdict):
            self._turn_away(request, node)
            return extend
        self._admit(request, found, cached, extend)
        return self._take_in(request, node, cached, extend, budget, extends)

    def _begin(self, request: SglangRequest, found: Found[HostedNode]) -> None:
        """A request that is looked at holds what it has found on the device."""
        self._hold(request, found.node)

    def _turn_away(self, request: SglangRequest, node: HostedNode) -> None:
        """It is not let in."""
        self._leave(request, node)

    def _hold(self, request: SglangRequest, node: HostedNode) -> None:
        self.index.lock(node)

    def _leave(self, request: SglangRequest, node: HostedNode) -> None:
        self.index.unlock(node)

    def _extend(
        self, request: SglangRequest, found: Found[HostedNode], cached: int, budget: PrefillBudget,
        extends: list[SglangRequest],
    ) -> int | Verdict:  # fmt: skip
        """Tokens the batch would compute of a request if ``cached`` need not be."""
        answer = request.max_new_tokens - request.outputs
        return budget.extend(request.tokens, found.hit, cached, answer, extends)

    def _admit(self, request: SglangRequest, found: Found[HostedNode], cached: int, extend: int) -> None:
        """Write down what a request has found that is let in, if it is the first time."""
        if request.cached_tokens < 0:
            request.cached_tokens = cached
            self.queried_tokens += request.tokens
            self.hit_tokens += found.hit
            self.host_tokens += cached - found.hit
            self.cached_tokens += cached

    def _bring(self, request: SglangRequest, found: Found[HostedNode]) -> bool:
        """Bring back what a request found in the host, if that may be loaded; whether it was."""
        loaded = self._load(request, found)
        if loaded:
            self.loads += 1
        else:
            self.refused += 1
        return loaded

    def _load(self, request: SglangRequest, found: Found[HostedNode]) -> bool:
        """``init_load_back``: if it is long enough and there is room."""
        index, pool, last, tokens = self.index, self.pool, found.last, found.below
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
        return loaded

    def _allocate_extend(self, plan: SglangPlan) -> None:
        """As the base class; the batch is known now, so its loads begin."""
        self.copies.start_loads()
        super()._allocate_extend(plan)
