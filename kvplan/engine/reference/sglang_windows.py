"""The oracle of SGLang's scheduler above a pool for windows.

Read from the source of 0.5.23 (``SWAPrefillBudget``, ``ScheduleBatch.maybe_evict_swa``,
``free_swa_out_of_window_slots``, ``UnifiedRadixCache.checkpoint_into_tree``): every request looked at in
every step. What requests hold of the window pool is what they hold of the full one, less what they gave back.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.recorder import Metric
from kvplan.engine.reference.radix import Seen, TokenTree
from kvplan.engine.reference.sglang import ReferenceSglangScheduler
from kvplan.engine.reference.sglang_budget import Budget
from kvplan.engine.reference.sglang_state import SglangPlan, SglangState
from kvplan.engine.reference.window_tree import WindowTokenTree
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_windows.errors import ForgottenPrefill
from kvplan.engine.sglang_windows.metrics import SECTION, WindowFigures
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.traces.request import Request


class WindowState(SglangState):
    """One request whose windows slide."""

    def __init__(self, request: Request, tree: TokenTree) -> None:
        super().__init__(request, tree)
        self.start_over()

    def start_over(self) -> None:
        """It has nothing in the pools (any more)."""
        self.slid = 0
        """Windows of its own tokens before this one are given back (``swa_evicted_seqlen``)."""
        self.branch: int | None = None
        """``swa_branching_seqlen``."""
        self.chunks = self.decodes = 0
        """Batches that it was in (``extend_batch_idx``, ``decode_batch_idx``)."""

    @property
    def windows(self) -> int:
        """Tokens of the window pool that are its own."""
        return self.held.allocated - max(self.held.shared, self.slid)


class WindowBudget(Budget):
    """``SWAPrefillBudget``."""

    scheduler: ReferenceWindowScheduler

    def __init__(self, scheduler: ReferenceSglangScheduler, mixed_decodes: int) -> None:
        super().__init__(scheduler, mixed_decodes)
        self.window_offset = 0

    @property
    def windows_left(self) -> int:
        """``remaining_swa``."""
        scheduler = self.scheduler
        return scheduler.free_windows + scheduler.tree.evictable_windows - self.window_offset

    def estimate(self, extend: int, answer: int) -> int:
        """``estimate_swa_kv_tokens``: beyond a window only what one batch computes at once."""
        span = self.scheduler.windows.span
        batch = extend if self.chunk_tokens is None else min(extend, self.chunk_tokens)
        return max(batch - span, 0) + min(extend + answer, span) + self.page

    def extend(self, state: SglangState, hit: int, batch: list[SglangState]) -> int | str:
        """As the base class, of both pools."""
        most = self.scheduler.config.clip_max_new_tokens
        answer = min(max(state.max_new_tokens - state.outputs, 0), most)
        extend = state.tokens - hit
        if extend + answer + self.page >= self.total:
            return "no token"
        padded = -(-extend // self.page) * self.page
        needed, room = self.estimate(padded, answer), self.chunk_tokens
        if needed >= self.windows_left:
            if room is None or needed < self.scheduler.window_tokens:
                return "no token"
            cut = (self.windows_left - self.estimate(0, answer)) // self.page * self.page
            if cut <= 0:
                return "no token"
            room = min(room, cut)
        return self._within(room, state, hit, batch)

    def chunk_room(self) -> int:
        """As the base class; nothing where the pools have nothing now."""
        assert self.chunk_tokens is not None
        return max(min(self.chunk_tokens, int(self.total), self.windows_left - self.page), 0)

    def charge(self, extend: int, max_new: int) -> None:
        """As the base class, to both pools."""
        self.window_offset += self.estimate(-(-extend // self.page) * self.page, max_new)
        super().charge(extend, max_new)

    def verdict(self) -> str:
        """As the base class."""
        return "no token" if self.windows_left <= 0 else super().verdict()


class ReferenceWindowScheduler(ReferenceSglangScheduler):
    """Queues, both pools and tree of one engine.

    Args:
        config: engine options.
        windows: the pool for windows.
    """

    budget_class = WindowBudget
    state_class = WindowState
    tree: WindowTokenTree

    def __init__(self, config: SglangConfig, windows: SlidingWindows) -> None:
        self.windows = windows
        super().__init__(config)
        self.free_windows = self.window_tokens = windows.tokens(config.page_size)
        self.peak_full = self.peak_windows = self.slid = self.missed = self.missed_tokens = 0

    def make_tree(self) -> WindowTokenTree:
        """As the base class."""
        return WindowTokenTree(self.config.page_size, self.config.leaf_key, self.windows.span)

    def schedule(self) -> SglangPlan:
        """As the base class."""
        plan = super().schedule()
        self.peak_full = max(self.peak_full, self.config.pool_tokens - plan.free)
        held = self.window_tokens - self.free_windows - self.tree.evictable_windows
        self.peak_windows = max(self.peak_windows, held)
        return plan

    def sections(self) -> dict[str, list[Metric]]:
        """As the base class."""
        figures = WindowFigures(
            span=self.windows.span, full_pool=self.config.pool_tokens, window_pool=self.window_tokens,
            peak_full=self.peak_full, peak_windows=self.peak_windows,
            evicted=self.tree.evicted, evicted_windows=self.tree.windows_evicted,
            slid=self.slid, missed=self.missed, missed_tokens=self.missed_tokens, queried=self.queried_tokens,
        )  # fmt: skip
        return {SECTION: figures.metrics()}

    # -- prefill ----------------------------------------------------------------------------------------

    def _prefill_batch(self) -> SglangPlan | None:
        self.full = False
        return super()._prefill_batch()

    def _take_in(self, state: SglangState, seen: Seen, mark: int) -> None:
        first, missed = state.cached_tokens < 0, seen.passed - seen.usable
        super()._take_in(state, seen, mark)
        cast(WindowState, state).branch = seen.passed if missed else None
        if first and missed:
            self.missed += 1
            self.missed_tokens += missed

    def _add_one(self, state: SglangState, budget: Budget, batch: list[SglangState]) -> str:
        before = self.chunked
        self.chunked = None
        verdict = super()._add_one(state, budget, batch)
        if before is not None:
            if self.chunked is not None:
                raise ForgottenPrefill(before.request.id, state.request.id)
            self.chunked = before
        return verdict

    def _allocate_extend(self, plan: SglangPlan) -> None:
        for extended in plan.extends:
            state = cast(WindowState, extended)
            if not self.caching:
                self._slide_prefill(state)
            state.chunks += 1
        super()._allocate_extend(plan)

    def _slide_prefill(self, state: WindowState) -> None:
        """``maybe_evict_swa`` without a tree: chunks in flight look back as well."""
        if self.config.disable_overlap_schedule:
            self._slide(state, state.prefix)
        elif state.chunks >= 2:
            self._slide(state, state.prefix - max(self.config.chunked_prefill_size, 0))

    # -- decode -----------------------------------------------------------------------------------------

    def _allocate_decode(self, states: list[SglangState], plan: SglangPlan) -> None:
        for decoding in states:
            state = cast(WindowState, decoding)
            # Of the first decode the prefill may be in flight.
            if state.decodes and state.tokens - 1 - self.windows.span >= state.slid + self.windows.interval:
                self._slide(state, state.tokens - 1)
            state.decodes += 1
        super()._allocate_decode(states, plan)

    def _let_go(self, state: SglangState, remaining: int) -> None:
        super()._let_go(state, remaining)
        cast(WindowState, state).start_over()

    # -- pools ------------------------------------------------------------------------------------------

    @property
    def _room(self) -> int:
        return min(self.free, self.free_windows)

    def _make_room(self, tokens: int) -> None:
        if self._room < tokens:
            freed, freed_windows = self.tree.reclaim(tokens - self.free, tokens - self.free_windows)
            self.free += freed
            self.free_windows += freed_windows

    def _grow(self, state: SglangState, tokens: int) -> None:
        self.free_windows -= self._missing(state, tokens)
        super()._grow(state, tokens)

    def _slide(self, state: WindowState, computed: int) -> None:
        """``free_swa_out_of_window_slots``."""
        page, span = self.config.page_size, self.windows.span
        if computed - span < state.slid + 1:
            return
        before = max(state.slid, state.held.shared)
        keep = self.tree.kept if self.caching else span
        state.slid = max(before, (computed - keep) // page * page)
        self.free_windows += state.slid - before
        self.slid += state.slid - before

    def _checkpoint(self, state: SglangState, tokens: int) -> None:
        if not self.caching:
            return
        state = cast(WindowState, state)
        branch = self._branch_in(state, tokens)
        self._slide(state, (branch or tokens) - 1)
        self._insert(state, branch or tokens)
        if branch:
            state.branch = None
            self._slide(state, tokens - 1)

    def _branch_in(self, state: WindowState, tokens: int) -> int | None:
        """Where the tree must be cut among the first ``tokens`` tokens, if anywhere."""
        branch = state.branch
        return branch if branch is not None and state.held.shared < branch <= tokens else None

    def _insert(self, state: WindowState, tokens: int) -> None:
        """``checkpoint_into_tree``."""
        held = state.held
        node, freed, freed_windows = self.tree.add(
            held.content, tokens, held.priority, counted=held.counted, owned=held.shared, live=state.slid
        )
        self.free += freed
        self.free_windows += freed_windows
        self.tree.let_go(held.node, state.mark)
        state.mark = self.tree.hold(node)
        held.node = node
        held.shared = tokens // self.config.page_size * self.config.page_size
        held.counted = max(held.counted, held.shared)

    def _finish(self, state: SglangState) -> None:
        state = cast(WindowState, state)
        if self.caching:
            self._insert(state, self._branch_in(state, state.extend_end) or state.extend_end)
        self._give_back(state)

    def _give_back(self, state: SglangState) -> None:
        self.free += state.held.private
        self.free_windows += cast(WindowState, state).windows
        self.tree.let_go(state.held.node, state.mark)
        state.holding = None

    def check(self) -> None:
        """As the base class, of both pools."""
        super().check()
        own = sum(cast(WindowState, state).windows for state in self.holders())
        cached = self.tree.held_windows + self.tree.evictable_windows
        assert self.free_windows >= 0
        assert self.free_windows + own + cached == self.window_tokens
