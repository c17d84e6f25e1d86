"""SGLang's scheduler above tokens and sliding windows in two memories."""

from __future__ import annotations

from typing import cast

from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.hicache.scheduler import HierarchicalScheduler
from kvplan.engine.hicache.windows.budget import HostedWindowBudget
from kvplan.engine.hicache.windows.index import HostedWindowIndex
from kvplan.engine.hicache.windows.node import HostedWindowNode
from kvplan.engine.sglang.admission import PrefillBudget, Verdict
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.found import Found
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang_windows.errors import ForgottenPrefill
from kvplan.engine.sglang_windows.pool import WindowPool
from kvplan.engine.sglang_windows.request import WindowRequest
from kvplan.engine.sglang_windows.scheduler import WindowScheduler


class HostedWindowScheduler(HierarchicalScheduler, WindowScheduler):
    """Above a ``HostedWindowIndex``."""

    budget_type = HostedWindowBudget
    index: HostedWindowIndex
    pool: WindowPool

    def __init__(self, config: SglangConfig, pool: WindowPool, *, keep_schedule: bool = False) -> None:
        super().__init__(config, pool, keep_schedule=keep_schedule)

    def _hold(self, request: SglangRequest, node: HostedNode) -> None:
        """As the base class, with the window."""
        cast(WindowRequest, request).held_from = self.index.hold(cast(HostedWindowNode, node))

    def _leave(self, request: SglangRequest, node: HostedNode) -> None:
        """As the base class."""
        self.index.let_go(cast(HostedWindowNode, node), cast(WindowRequest, request).held_from)

    def _extend(
        self, request: SglangRequest, found: Found[HostedNode], cached: int, budget: PrefillBudget,
        extends: list[SglangRequest],
    ) -> int | Verdict:  # fmt: skip
        """As the base class; what is loaded takes room in the window pool, unless the load was refused."""
        assert isinstance(budget, HostedWindowBudget)
        budget.loads = found.windows if cached == found.hit + found.below else 0
        extend = super()._extend(request, found, cached, budget, extends)
        budget.loads = 0
        return extend

    def _admit(self, request: SglangRequest, found: Found[HostedNode], cached: int, extend: int) -> None:
        """As both base classes.

        Raises:
            ForgottenPrefill: a second prefill of the batch would be cut.
        """
        if self.chunked is not None and cached + extend < request.tokens:
            raise ForgottenPrefill(self.chunked.request.id, request.request.id)
        self._note_branch(cast(WindowRequest, request), found.passed, found.hit + found.below)
        super()._admit(request, found, cached, extend)

    def _load(self, request: SglangRequest, found: Found[HostedNode]) -> bool:
        """As the base class: what is missing of a window, with the tokens before it that are."""
        index, pool, last = self.index, self.pool, cast(HostedWindowNode, found.last)
        missing, windows = index.lacking(last), found.windows
        index.pin(last)
        start = index.hold(last)
        loaded = index.loadable(last)
        if loaded:
            pool.make_rooms(missing, 0)
            loaded = pool.free >= missing
        if loaded:
            pool.free -= missing
            pool.make_rooms(0, windows)
            loaded = pool.free_windows >= windows
            if loaded:
                index.load(last)
                pool.free_windows -= windows
                pool.allocated += missing
            else:
                pool.free += missing
        index.let_go(last, start)
        if not loaded:
            index.unpin(last)
        return loaded
