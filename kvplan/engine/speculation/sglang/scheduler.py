"""SGLang's scheduler with drafts: request by request, as how many stand differs.

Verified by recordings of 0.5.23's own methods, with the overlap schedule and without: who is batched, what is
allocated ahead for drafts, retracted and inserted, what a request has computed when it ends. Every decode
step verifies all drafts of every request; in a mixed batch nobody's are.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.scheduler import SglangScheduler
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.drafted import Drafted
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.sglang.batch import DraftedBatch
from kvplan.engine.speculation.sglang.pool import DraftedPool, DraftedTokenPool
from kvplan.engine.speculation.sglang.request import DraftedRequest, DraftedSglangPlan, DraftedSglangRequest
from kvplan.traces.request import Request


class DraftedSglangScheduler(SglangScheduler):
    """Queues and pool of one engine instance whose requests have drafts; mixed into schedulers above more
    than one pool."""

    request_type: type[DraftedRequest] = DraftedSglangRequest
    decoding: DraftedBatch
    pool: DraftedPool

    def __init__(
        self, config: SglangConfig, rules: DraftRules, acceptance: Acceptance,
        pool: DraftedPool | None = None, *, keep_schedule: bool = False,
    ) -> None:  # fmt: skip
        if pool is None:
            pool = DraftedTokenPool(config, rules.hash_lookahead)
        super().__init__(config, pool, keep_schedule=keep_schedule)
        self.decoding = DraftedBatch(
            config.page_size, config.clip_max_new_tokens, 1 + rules.tokens + rules.lookahead
        )
        self.rules = rules
        self.acceptance = acceptance
        self.drafted = Drafted(rules.tokens)

    def live(self, request: Request) -> SglangRequest:
        """As the base class; the tree may know its tokens otherwise than the queue."""
        live = self.request_type(request, self.acceptance.key(request.id))
        live.content = self.pool.content(request)
        return live

    def new_plan(self) -> SglangPlan:
        """As the base class."""
        return DraftedSglangPlan()

    def _merge(self, last: SglangPlan) -> None:
        """As the base class; outputs in flight are counted by request."""
        super()._merge(last)
        self.fresh = []

    def _allocate_extend(self, plan: SglangPlan) -> None:
        """As the base class; the drafter computes the same tokens, and makes the first draft with them."""
        super()._allocate_extend(plan)
        plan.batch.drafting = 1

    def _decode(self, plan: SglangPlan) -> None:
        """As the base class (``eagle_prepare_for_decode``): places for drafts, and their verification."""
        assert isinstance(plan, DraftedSglangPlan)
        self._give_places()
        drafts = 0 if plan.extends else self.rules.tokens
        more = 1 + drafts
        plan.decodes = True
        context = 0
        for request in self.decoding:
            context += request.on_device + more
            accepted = 0
            if drafts:
                accepted = self.acceptance.accepted(request.key, request.verified, drafts)
                request.verified += 1
            request.ahead += 1 + accepted
            plan.shares.append((request, accepted))
        count, batch = self.decoding.count, plan.batch
        batch.scheduled_tokens += count * more
        batch.sampled_requests += count
        batch.decode_requests += count
        batch.decode_context += context
        batch.decode_kv_tokens += context
        if drafts:
            batch.drafting = drafts
        if self.keep_schedule:
            plan.scheduled.extend((request, more) for request, _ in plan.shares)

    def _give_places(self) -> None:
        asked = needed = 0
        for request in self.decoding:
            held, places = request.held, self.decoding.places(request)
            if places > request.room:
                asked += places - request.room
                needed += places - held.allocated
                request.room = held.allocated = places
        if asked:
            page = self.page
            self.pool.take(needed, asked if page == 1 else asked + self.decoding.count * page, "decode")

    # -- after the step ---------------------------------------------------------------------------------

    def deliver(self, plan: SglangPlan) -> list[SglangRequest]:
        """As the base class; what stands of drafts is known now."""
        assert isinstance(plan, DraftedSglangPlan)
        finished: list[SglangRequest] = []
        for extended, end in zip(plan.extends, plan.ends, strict=True):
            if extended is plan.chunked or extended.holding is None:
                continue
            request = cast(DraftedRequest, extended)
            request.outputs += 1
            if request.ticket:
                request.ahead -= 1
            if request.outputs < request.max_new_tokens and not request.aborted:
                self.pool.checkpoint(request, end)
            else:
                self._finish(request, finished)
        mixed = bool(plan.extends)
        for request, accepted in plan.shares:
            # Whoever has finished meanwhile (overlap), or was retracted, has nothing of it.
            if request.holding is None:
                continue
            request.ahead -= 1 + accepted
            request.outputs += 1 + accepted
            ends = request.aborted or request.outputs >= request.max_new_tokens
            if not mixed:
                self.pool.stood(request, 1 + accepted)
                self.drafted.proposed[self.rules.tokens] += 1
                self.drafted.accepted[accepted] += 1
            if not (mixed and ends):
                # Of who ends with a mixed batch its last token does not count as computed.
                request.computed += 1 + accepted
            if ends:
                self._finish(request, finished)
        self.aborting.clear()
        self.finishing = 0
        return finished

    def _finish(self, request: DraftedRequest, finished: list[SglangRequest]) -> None:
        if request.ticket:
            self.decoding.leave(request)
            self.left_over += 1
        self.pool.release(request)
        finished.append(request)
