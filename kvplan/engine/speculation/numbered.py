"""Schedulers with drafts above numbered blocks of several groups; and one that loads into them."""

from __future__ import annotations

from typing import cast

from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.numbered.request import NumberedRequest
from kvplan.engine.numbered.scheduler import NumberedLoads, NumberedScheduler
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.speculation.grouped.cache import DraftNumberedCache
from kvplan.engine.speculation.grouped.request import NumberedDraftedRequest
from kvplan.engine.speculation.loading import DraftLoading
from kvplan.engine.speculation.scheduler import HybridDraftScheduler
from kvplan.traces.request import Request


class DraftNumberedScheduler(NumberedScheduler, HybridDraftScheduler):
    """One whose blocks have numbers; ``rules`` are those beside a connector."""

    def make_cache(self) -> DraftNumberedCache:
        """As the base class, with a state for every draft."""
        self.numbered = cache = DraftNumberedCache(self.config, self.rules)
        return cache

    def live(self, request: Request) -> LiveRequest:
        """As the base class."""
        key, groups = self.acceptance.key(request.id), len(self.config.groups)
        return NumberedDraftedRequest(request, self.index.root, key, groups)

    def publish_until(self, request: LiveRequest, tokens: int) -> None:
        """As the base class; each group says how far."""
        drafted = cast(NumberedDraftedRequest, request)
        if self.caching and self.numbered.publish(drafted, min(tokens, drafted.num_tokens)):
            self.version += 1


class DraftNumberedLoads(NumberedLoads, DraftLoading, DraftNumberedScheduler):
    """One that loads what every group needs of a prefix."""

    def _fits_load(self, request: LiveRequest, match: Match, fetched: int) -> bool:
        cast(NumberedDraftedRequest, request).reach = self._found.tokens + fetched
        return super()._fits_load(request, match, fetched)

    def _fits_loaded(self, request: LiveRequest, tokens: int) -> bool:
        cast(NumberedDraftedRequest, request).reach = request.computed + tokens
        return super()._fits_loaded(request, tokens)

    def _admit_loaded(self, plan: StepPlan, request: LiveRequest, tokens: int) -> None:
        before = request.computed
        request.computed += tokens
        self.numbered.resume(cast(NumberedRequest, request), self.placed(request.computed))
        self.begin(plan, request, before, tokens)
        if request.computed >= request.num_tokens:
            self.prefills.append(request)  # its load counts until the step is planned

    def _finish(self, request: LiveRequest) -> None:
        if request.status is Status.RUNNING:
            numbered = cast(NumberedRequest, request)
            self.numbered.drop(numbered, max(request.computed - numbered.in_flight, 0))
        self._leave(request)

    def progress(self, request: NumberedRequest) -> tuple[int, int]:
        """As the base class."""
        return request.computed, request.in_flight
