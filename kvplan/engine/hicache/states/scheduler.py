"""SGLang's scheduler above tokens and recurrent states in two memories."""

from __future__ import annotations

from typing import cast

from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.hicache.scheduler import HierarchicalScheduler
from kvplan.engine.hicache.states.index import HostedStateIndex
from kvplan.engine.hicache.states.node import HostedStateNode
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.found import Found
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

    def _begin(self, request: SglangRequest, found: Found[HostedNode]) -> None:
        """As the base class. A state on the device is copied at once; one in the host with the load."""
        super()._begin(request, found)
        if found.hit and found.last is found.node:
            self.pool.claim(cast(StateRequest, request))

    def _turn_away(self, request: SglangRequest, node: HostedNode) -> None:
        """As the base class; it needs no slot."""
        super()._turn_away(request, node)
        self.pool.give_back(cast(StateRequest, request))

    def _admit(self, request: SglangRequest, found: Found[HostedNode], cached: int, extend: int) -> None:
        """As both base classes."""
        branch = found.passed - found.passed % self.pool.grid
        cast(StateRequest, request).branch = branch if branch > found.hit + found.below else 0
        if request.cached_tokens < 0:
            self.passed_tokens += found.passed
            self.cut_short += found.passed > cached
        super()._admit(request, found, cached, extend)

    def _load(self, request: SglangRequest, found: Found[HostedNode]) -> bool:
        """As the base class: a state that is only in the host, with the tokens before it that are."""
        request = cast(StateRequest, request)
        index, pool, last = self.index, self.pool, found.last
        index.pin(last)
        index.lock(cast(HostedStateNode, last))
        pool.claim(request)
        missing = index.lacking(last)
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
        index.unlock(cast(HostedStateNode, last))
        if not loaded:
            pool.give_back(request)
            index.unpin(last)
        return loaded
