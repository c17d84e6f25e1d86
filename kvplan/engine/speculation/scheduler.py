"""Schedulers of engines that draft: on a cache of one full-attention group, and of several groups."""

from __future__ import annotations

from typing import cast

from kvplan.engine.hybrid.cache import HybridCache
from kvplan.engine.hybrid.scheduler import HybridScheduler
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.speculation.drafting import Drafting
from kvplan.engine.speculation.request import DraftedRequest
from kvplan.engine.speculation.states import DraftCache
from kvplan.traces.request import Request


class DraftScheduler(Drafting):
    """With one group of full attention."""

    def _match(self, request: LiveRequest) -> Match:
        match = super()._match(request)
        if not (self.rules.drops_block and match.blocks):
            return match
        # Its entry for the token behind it was made without that token.
        return self.index.match(request.content, match.blocks - 1)

    def allocate(self, request: LiveRequest, tokens: int) -> bool:
        """As the base class, sooner where neither a block is needed nor one to publish."""
        computed, size = request.computed + tokens, self.block_size
        held, next_block = request.blocks * size, (request.published + 1) * size
        if computed + self.rules.lookahead > held or request.num_tokens >= next_block:
            return super().allocate(request, tokens)
        request.computed = computed
        return True

    def blocks_of(self, tokens: int) -> int:
        """As the base class; drafts to come have their places, too."""
        return -(-self.placed(tokens) // self.block_size)

    def publish_until(self, request: LiveRequest, tokens: int) -> None:
        """As the base class, where there is something to publish."""
        final = tokens - self.rules.prompt_lookahead + 1
        if final >= (request.published + 1) * self.block_size:
            super().publish_until(request, final)
            self.version += 1


class HybridDraftScheduler(Drafting, HybridScheduler):
    """With several groups of full attention, windows, local chunks and recurrent states."""

    def make_cache(self) -> HybridCache:
        """As the base class; a state for every draft, so that rejected ones leave none behind."""
        return DraftCache(self.config, self.rules)

    def live(self, request: Request) -> LiveRequest:
        """As the base class, in every group."""
        live = cast(DraftedRequest, super().live(request))
        self.cache.enter(live)
        return live

    def begin_step(self) -> None:
        """Called once for every step that is planned."""
        self.cache.start_step()

    def allocate(self, request: LiveRequest, tokens: int) -> bool:
        """Give a running request ``tokens`` more tokens and the blocks they need, or change nothing."""
        drafted = cast(DraftedRequest, request)
        computed = drafted.computed
        drafted.reach = computed + tokens
        more = self.placed(computed + tokens) - computed
        if not self.cache.extend(drafted, computed, more, drafted.in_flight):
            return False
        drafted.computed = computed + tokens
        self.publish(drafted)
        return True

    def _wanted(self, request: DraftedRequest, threshold: int, budget: int) -> int:
        tokens = super()._wanted(request, threshold, budget)
        return self.chunk(request, tokens, request.computed) if tokens > 0 else tokens

    def publish_until(self, request: LiveRequest, tokens: int) -> None:
        """As the base class; where a hit can end is asked first, then which blocks have hashes."""
        if not self.caching:
            return
        cache, hashed = self.cache, request.num_tokens - self.rules.hash_lookahead
        filled = min(tokens - tokens % cache.alignment, hashed)
        if cache.publish_filled(cast(DraftedRequest, request), filled):
            self.version += 1

    def _fits(self, request: LiveRequest, match: Match, tokens: int) -> bool:
        start = self._found.tokens
        cast(DraftedRequest, request).reach = start + tokens
        return super()._fits(request, match, self.placed(start + tokens) - start)

    def _admit(self, plan: StepPlan, request: LiveRequest, match: Match, tokens: int) -> None:
        waiting, hit = cast(DraftedRequest, request), self._found
        if self.caching and request.status is Status.WAITING:
            self.queried_tokens += request.num_tokens
            self.hit_tokens += hit.tokens
        self.cache.admit(waiting, self.placed(hit.tokens + tokens) - hit.tokens, hit)
        self.version += 1
        request.computed = hit.tokens + tokens
        self.begin(plan, request, hit.tokens, tokens)
