"""vLLM's scheduler above numbered blocks of several groups; and one that loads into them."""

from __future__ import annotations

from typing import cast

from kvplan.engine.hybrid.scheduler import HybridScheduler
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.numbered.cache import NumberedCache
from kvplan.engine.numbered.plan import FencedGrantedPlan, GrantedPlan
from kvplan.engine.numbered.request import NumberedRequest, UndraftedRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.remote.scheduler import RemoteScheduler
from kvplan.traces.request import Request


class NumberedScheduler(HybridScheduler):
    """One whose blocks have numbers, in groups of whatever kinds and sizes."""

    def make_cache(self) -> NumberedCache:
        """As the base class."""
        self.numbered = NumberedCache(self.config)
        return self.numbered

    def live(self, request: Request) -> LiveRequest:
        """As the base class."""
        return UndraftedRequest(request, self.index.root, len(self.config.groups))

    def new_plan(self) -> StepPlan:
        """One that knows whom it computes."""
        return FencedGrantedPlan() if self.config.async_scheduling else GrantedPlan()

    def complete(self, request: LiveRequest) -> None:
        """As the base class; what lies out of the last token's reach goes first (``_connector_finished``)."""
        super().complete(request)
        self.numbered.drop(cast(NumberedRequest, request), request.prompt_tokens + request.max_tokens - 1)


class NumberedLoads(RemoteScheduler, NumberedScheduler):
    """One that loads what every group needs of a prefix."""

    def new_plan(self) -> StepPlan:
        """As of numbered blocks."""
        return NumberedScheduler.new_plan(self)

    # -- loads ------------------------------------------------------------------------------------------

    def _admit_waiting(self, plan: StepPlan, budget: int, threshold: int, defer_prefills: bool) -> None:
        self._look_again()
        super()._admit_waiting(plan, budget, threshold, defer_prefills)

    def _fits_load(self, request: LiveRequest, match: Match, fetched: int) -> bool:
        cache, hit, waiting = self.numbered, self._found, cast(NumberedRequest, request)
        total, free = hit.tokens + fetched, self.free_blocks - self.reserve
        if self.config.scheduler_reserve_full_isl:
            whole = cache.needed(waiting, request.num_tokens, hit, total, admission=True)
            if whole > free:
                return False
        room = sum(-(-self.room // group.block_size) for group in self.config.groups if group.kind != "mamba")
        # Of states beside drafts vLLM may count less than nothing as promised; it fails where that is taken.
        promised = max(self._promised() + room, 0)
        return cache.needed(waiting, total, hit, total, admission=False) <= free - promised

    def _promised(self) -> int:
        room = self.room
        return sum(
            self.numbered.needed(
                cast(NumberedRequest, request), request.num_tokens + room, None, request.computed,
                admission=True,
            )
            for request in (*self.prefills, *self.queue.holders)
        )  # fmt: skip

    def make_room(self, request: LiveRequest, match: Match, tokens: int) -> None:
        """As the base class, in every group."""
        self.numbered.load(cast(NumberedRequest, request), tokens, self._found)

    def _fits_loaded(self, request: LiveRequest, tokens: int) -> bool:
        cache, waiting = self.numbered, cast(NumberedRequest, request)
        computed, free = request.computed, self.free_blocks - self.reserve
        if self.config.scheduler_reserve_full_isl:
            whole = cache.needed(waiting, request.num_tokens, None, computed, admission=True)
            if whole > free:
                return False
        covered = self.placed(computed + tokens)
        return cache.needed(waiting, covered, None, computed, admission=False) <= free

    def _admit_loaded(self, plan: StepPlan, request: LiveRequest, tokens: int) -> None:
        numbered, before = cast(NumberedRequest, request), request.computed
        request.computed += tokens
        self.numbered.resume(numbered, request.computed)
        self._granted[numbered] = tokens
        self.begin(plan, request, before, tokens)

    # -- who leaves -------------------------------------------------------------------------------------

    def abort(self, request: LiveRequest) -> None:
        """As the base class; what lies behind the tokens it has computed goes first."""
        if request.status is Status.RUNNING:
            numbered = cast(NumberedRequest, request)
            computed, in_flight = self.progress(numbered)
            self.numbered.drop(numbered, max(computed - in_flight, 0))
            self.numbered.forget(numbered)
        super().abort(request)

    def progress(self, request: NumberedRequest) -> tuple[int, int]:
        """Tokens that are computed or in flight, and those in flight, of a running request."""
        if request.steady is None:
            # The last token of who decoded in step is nobody's grant.
            last = sum(
                1
                for plan in self.undelivered
                if isinstance(plan, FencedGrantedPlan | GrantedPlan)
                and request in plan.aboard
                and request not in plan.granted
            )
            return request.computed, request.in_flight + last
        tick = self.decodes.tick
        flying = sum(1 for plan in self.undelivered if plan.batch.scheduled_tokens)
        return request.base + tick, request.in_flight + min(tick - request.joined, flying)

    def give_back_late(self, request: LiveRequest) -> None:
        """As the base class."""
        self.numbered.release_at_once(cast(NumberedRequest, request))
