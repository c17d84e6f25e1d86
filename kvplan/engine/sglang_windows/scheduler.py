"""SGLang's scheduler above two pools of tokens, one of which forgets what no window reaches.

Verified by recordings of 0.5.23's own methods, allocators and unified radix cache (both cores), with the
radix cache and without: admission to both budgets, chunks that are cut to the window pool or wait for it,
eviction from both pools, windows given back while requests decode, retraction.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.sglang.admission import PrefillBudget, Verdict
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.found import Found
from kvplan.engine.sglang.live import DecodeBatch, SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.scheduler import SglangScheduler
from kvplan.engine.sglang_windows.batch import WindowBatch
from kvplan.engine.sglang_windows.budget import WindowBudget
from kvplan.engine.sglang_windows.errors import ForgottenPrefill
from kvplan.engine.sglang_windows.node import WindowNode
from kvplan.engine.sglang_windows.pool import WindowPool
from kvplan.engine.sglang_windows.request import WindowRequest


class WindowScheduler(SglangScheduler):
    """Queues and pools of one engine instance.

    Attributes:
        missed: first admissions that full attention knew more of than windows did.
        missed_tokens: tokens that were computed again for it.
    """

    budget_type = WindowBudget
    decoding: DecodeBatch
    request_type: type[SglangRequest] = WindowRequest
    pool: WindowPool

    def __init__(self, config: SglangConfig, pool: WindowPool, *, keep_schedule: bool = False) -> None:
        super().__init__(config, pool, keep_schedule=keep_schedule)
        self.decoding = WindowBatch(config.page_size, config.clip_max_new_tokens, pool.windows)
        self.missed = self.missed_tokens = 0

    # -- prefill ----------------------------------------------------------------------------------------

    def _prefill_batch(self, before: SglangPlan | None) -> SglangPlan | None:
        # With windows a prefill is tried with every step: they may have been given back.
        self.full = False
        return super()._prefill_batch(before)

    def _add_one(
        self, request: SglangRequest, budget: PrefillBudget, extends: list[SglangRequest]
    ) -> Verdict:
        """As the base class, holding windows, too.

        Raises:
            ForgottenPrefill: a second prefill of the batch would be cut.
        """
        request = cast(WindowRequest, request)
        pool, tokens = self.pool, request.tokens
        cache = pool.cache
        found: Found[WindowNode] = Found(0, cache.root, 0, cache.root)
        if pool.caching:
            found = cache.look(request.content, pool.known(tokens - 1))
        hit, node, passed = found.hit, found.node, found.passed
        held_from = cache.hold(node)
        request.missing = tokens - hit
        extend = budget.extend(tokens, hit, hit, request.max_new_tokens - request.outputs, extends)
        if isinstance(extend, Verdict):
            cache.let_go(node, held_from)
            return extend
        if self.chunked is not None and hit + extend < tokens:
            raise ForgottenPrefill(self.chunked.request.id, request.request.id)
        request.held_from = held_from
        self._note_branch(request, passed, hit)
        if request.cached_tokens < 0:
            request.cached_tokens = hit
            self.queried_tokens += tokens
            self.hit_tokens += hit
        return self._take_in(request, node, hit, extend, budget, extends)

    def _note_branch(self, request: WindowRequest, passed: int, found: int) -> None:
        """A request is let in of which ``passed`` tokens are cached, ``found`` of them with windows."""
        request.branch = passed if passed > found else 0
        if request.cached_tokens < 0 and request.branch:
            self.missed += 1
            self.missed_tokens += passed - found

    def _allocate_extend(self, plan: SglangPlan) -> None:
        """As the base class; without a tree, chunks give back what the next one does not look at."""
        for extended in plan.extends:
            request = cast(WindowRequest, extended)
            if not self.pool.caching:
                self._slide_prefill(request)
            request.chunks += 1
        super()._allocate_extend(plan)

    def _slide_prefill(self, request: WindowRequest) -> None:
        before = request.prefix
        if self.overlap:
            # The chunk before this one is in flight, and looks back as well.
            if request.chunks < 2:
                return
            before -= max(self.config.chunked_prefill_size, 0)
        self.pool.slide(request, before)

    # -- decode -----------------------------------------------------------------------------------------

    def _decode(self, plan: SglangPlan) -> None:
        """As the base class, after windows have gone on by what is known."""
        decoding = self.decoding
        assert isinstance(decoding, WindowBatch)
        for request in decoding.sliding():
            self.pool.slide(request, request.prompt_tokens + decoding.outputs_of(request) - 1)
            decoding.watch(request)
        super()._decode(plan)
