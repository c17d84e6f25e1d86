"""SGLang's scheduler above tokens and recurrent states in two memories."""

from __future__ import annotations

from typing import cast

from kvplan.engine.hicache.scheduler import HierarchicalScheduler
from kvplan.engine.hicache.states.index import HostedStateIndex
from kvplan.engine.hicache.states.node import HostedStateNode
from kvplan.engine.sglang.admission import PrefillBudget, Verdict
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang_states.pool import StatePool
from kvplan.engine.sglang_states.request import StateRequest
from kvplan.engine.sglang_states.scheduler import StateScheduler


class HostedStateScheduler(HierarchicalScheduler, StateScheduler):
    """Above a ``HostedStateIndex``."""

    index: HostedStateIndex
    pool: StatePool

    def __init__(self, config: SglangConfig, pool: StatePool, *, keep_schedule: bool = False) -> None:
        super().__init__(config, pool, keep_schedule=keep_schedule)

    @property
    def found_tokens(self) -> int:
        """As the base class, on the device or in the host."""
        return self.cached_tokens

    def _add_one(
        self, request: SglangRequest, budget: PrefillBudget, extends: list[SglangRequest]
    ) -> Verdict:
        """As both base classes. A state on the device is copied at once; one in the host with the load."""
        request = cast(StateRequest, request)
        index, pool, tokens = self.index, self.pool, request.tokens
        answer = request.max_new_tokens - request.outputs
        found = index.look(request.content, tokens - 1)
        held, node, last = found.hit, found.node, cast(HostedStateNode, found.last)
        cached = held + found.below
        index.lock(node)
        if held and last is node:
            pool.claim(request)
        request.missing = tokens - held
        extend = budget.extend(tokens, held, cached, answer, extends)
        if not isinstance(extend, Verdict) and last is not node:
            if self._load_state(request, last):
                index.unlock(node)
                index.lock(last)
                node = last
                # What was on the device behind the last state there comes for nothing.
                extend = min(extend, tokens - last.end)
                cached = last.end
            elif found.below:
                cached = held
                extend = budget.extend(tokens, held, held, answer, extends)
        if isinstance(extend, Verdict):
            index.unlock(node)
            pool.give_back(request)
            return extend
        branch = found.passed - found.passed % pool.grid
        request.branch = branch if branch > held + found.below else 0
        if request.cached_tokens < 0:
            self._count(request, held, cached)
            self.passed_tokens += found.passed
            self.cut_short += found.passed > cached
        return self._take_in(request, node, cached, extend, budget, extends)

    def _load_state(self, request: StateRequest, last: HostedStateNode) -> bool:
        """Bring back a state that is only in the host, with the tokens before it that are; whether there was
        room (``load_back``)."""
        index, pool = self.index, self.pool
        index.pin(last)
        index.lock(last)
        pool.claim(request)
        missing, node = 0, last
        while not node.on_device:
            missing += node.tokens
            assert node.parent is not None
            node = node.parent
        loaded = last.loading is None
        if loaded:
            pool.make_room(missing)
            loaded = pool.free >= missing
        if loaded:
            pool.free -= missing
            if not pool.free_slots:
                pool.free += index.evict_states(1)
            loaded = pool.free_slots > 0
            if loaded:
                index.load(last)
                pool.allocated += missing
            else:
                pool.free += missing
        index.unlock(last)
        if loaded:
            self.loads += 1
        else:
            self.refused += 1
            pool.give_back(request)
            index.unpin(last)
        return loaded
