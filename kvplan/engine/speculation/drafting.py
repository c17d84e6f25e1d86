"""vLLM's v1 scheduler where requests have drafts: request by request, as how many stand differs."""

from __future__ import annotations

from typing import cast

from kvplan.engine.config import EngineConfig
from kvplan.engine.crowded import victim_of
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan
from kvplan.engine.scheduler_vllm import VllmScheduler
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.drafted import Drafted
from kvplan.engine.speculation.paired import Pairs
from kvplan.engine.speculation.request import DraftedRequest, DraftPlan, Share
from kvplan.engine.speculation.rules import DraftRules
from kvplan.traces.request import Request

_ALONE = -1
"""Tokens of a request that waits without keeping others waiting."""


class Drafting(VllmScheduler):
    """Plans the steps of one engine instance, whatever its cache is like."""

    def __init__(
        self, config: EngineConfig, rules: DraftRules, acceptance: Acceptance, *, keep_schedule: bool
    ) -> None:
        self.rules = rules
        super().__init__(config, keep_schedule=keep_schedule)
        self._pairs = Pairs(rules.hash_lookahead) if rules.hash_lookahead else None
        self.computed_anyway = max(1, rules.hash_lookahead)
        self.acceptance = acceptance
        self.draft_slots = rules.slots
        self.drafted = Drafted(rules.tokens)
        self.aside: dict[LiveRequest, None] = {}
        """Waiting requests that were passed over (vLLM's ``deferred_waiting``)."""
        # Of the step being planned; what a preemption takes back stays counted, as in vLLM.
        self.computes_prompts = False
        """Whether a running request's prompt is in it."""
        self.granted_any = False
        """Whether any running request is."""
        self.drafts_wanted = False
        """Whether drafts made after it may be verified."""

    def live(self, request: Request) -> LiveRequest:
        """What the engine keeps about a request that arrives."""
        live = DraftedRequest(request, self.index.root, self.acceptance.key(request.id))
        if self._pairs is not None:
            live.content = self._pairs.content(request)
        return live

    def found_blocks(self, request: Request) -> int:
        """As the base class, of the content as this engine knows it."""
        return self._match(self.live(request)).blocks

    def undecided(self) -> bool:
        """Every step has something to decide."""
        return True

    # -- schedule ---------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan:
        """Plan the next step and account for it as if it had run, and all its drafts stood."""
        self.begin_step()
        plan = DraftPlan()
        threshold, defer_prefills = 0, False
        if self.special_prefills:
            threshold, defer_prefills = self._prefill_threshold(), self._defers_prefills()
        budget = self._grant_running(plan, threshold, defer_prefills)
        if not plan.preempted:
            self._admit_waiting(plan, budget, threshold, defer_prefills)
            if not defer_prefills:
                self.prefill_capacity_bound = self.left_over()
        self._advance(plan)
        self.last_plan = plan
        return plan

    def begin_step(self) -> None:
        """Called once for every step that is planned."""

    def _grant_running(self, plan: DraftPlan, threshold: int, defer_prefills: bool) -> int:
        """Give running requests their tokens in admission order; returns the budget left."""
        running = cast("list[DraftedRequest]", list(self.running))
        granted: dict[DraftedRequest, Share] = {}
        self.computes_prompts = self.drafts_wanted = False
        slots = self.draft_slots
        budget = self.config.max_num_batched_tokens - slots
        index = 0
        while index < len(running) and budget > 0:
            request = running[index]
            tokens = self._wanted(request, threshold, budget)
            if tokens <= 0 or (defer_prefills and request.prefilling):
                index += 1
                continue
            # Drafts are what the step computes beyond the outputs that are known or in flight.
            beyond = request.computed + tokens - request.num_tokens - request.placeholders
            fits = self.allocate(request, tokens)
            while not fits:
                position = victim_of(self, running)
                victim = running[position]
                if not self.preemptible(victim):
                    break
                del running[position]
                if position < index:
                    index -= 1
                share = granted.pop(victim, None)
                if share is not None:
                    budget += share[1] + slots
                self.preempt(victim, 0)
                plan.preempted.append(victim)
                if victim is request:
                    break
                fits = self.allocate(request, tokens)
            if not fits:
                if request.status is Status.RUNNING:
                    break  # nobody makes room for it: it goes without a token, and so do those behind it
                continue  # it preempted itself: the next request now stands at its index
            drafts = request.drafts
            if drafts:
                request.drafts = 0
                if beyond < drafts:
                    drafts = beyond if beyond > 0 else 0
            granted[request] = (request, tokens, drafts, False)
            if request.prefilling:
                self.computes_prompts = True
            if not self.drafts_wanted:
                self.drafts_wanted = self._drafts_serve(request)
            budget -= tokens + slots
            index += 1
        self.granted_any = bool(granted)
        plan.carries_prefill = self.computes_prompts
        plan.take(granted.values())
        if self.keep_schedule:
            plan.scheduled = [(request, tokens) for request, tokens, *_ in plan.shares]
        return budget

    def _wanted(self, request: DraftedRequest, threshold: int, budget: int) -> int:
        """Tokens that a running request gets, drafts included; none where less than 1."""
        placeholders, computed = request.placeholders, request.computed
        if placeholders and computed + 2 - placeholders >= request.length:
            return 0  # the step in flight brings the last token even if no draft stands
        tokens = request.num_tokens + request.drafts + placeholders - computed
        if 0 < threshold < tokens:
            tokens = threshold
        if tokens > budget:
            tokens = budget
        room = self.config.max_model_len - 1 - computed
        if tokens > room:
            tokens = room
        return tokens if self.rules.prompt_lookahead == 1 else self._cut(request, computed, tokens)

    def _cut(self, request: LiveRequest, computed: int, tokens: int) -> int:
        """No chunk ends so close to a prompt's end that drafts would be made from drafts before it."""
        left = request.num_tokens - computed - tokens
        if 0 < left < self.rules.prompt_lookahead:
            tokens -= self.rules.prompt_lookahead - left
        return tokens

    def placed(self, tokens: int) -> int:
        """As the base class; drafts to come have their places, too."""
        return min(tokens + self.rules.lookahead, self.config.max_model_len)

    def _first_chunk(
        self, request: LiveRequest, start: int, budget: int, threshold: int, defer_prefills: bool
    ) -> int | None:
        if self._pads(request, start):
            tokens = 1 + self.rules.tokens
            if tokens > budget:
                return None
            # Where states want a step to end before its placeholders do, there are none.
            return tokens if self.chunk(request, tokens, start) == tokens else 1
        wanted = super()._first_chunk(request, start, budget, threshold, defer_prefills)
        if not wanted or self.rules.prompt_lookahead == 1:
            return wanted
        tokens = self._cut(request, start, wanted)
        if tokens > 0:
            return tokens
        self.aside[request] = None
        return _ALONE

    def left_over(self) -> bool:
        """As the base class; whoever was passed over is not counted."""
        return len(self.waiting) > len(self.aside)

    def _pads(self, request: LiveRequest, start: int) -> bool:
        """Whether a request that is let in with one token to compute is filled up to those who decode."""
        return (
            request.num_tokens - start == 1
            and not self.computes_prompts
            and (self.granted_any or start > 0)
            and start + 2 + self.rules.tokens <= self.config.max_model_len
        )

    def begin(self, plan: StepPlan, request: LiveRequest, hit_tokens: int, tokens: int) -> None:
        """A request that was given its blocks runs from this step on."""
        assert isinstance(request, DraftedRequest)
        assert isinstance(plan, DraftPlan)
        self.aside.pop(request, None)
        self.enter(plan, request, hit_tokens)
        padded = tokens > 1 and self._pads(request, hit_tokens)
        plan.take([(request, tokens, self.rules.tokens if padded else 0, padded)])
        self.drafts_wanted = self.drafts_wanted or self._drafts_serve(request)
        if self.keep_schedule:
            plan.scheduled.append((request, tokens))

    def publish(self, request: LiveRequest) -> None:
        """As the base class; a block waits for the tokens that its hash covers."""
        if self.caching:
            self.publish_until(request, min(request.computed, request.num_tokens))

    def publish_until(self, request: LiveRequest, tokens: int) -> None:
        """As the base class; a block waits for the tokens that its hash covers."""
        super().publish_until(request, min(tokens, request.num_tokens - self.rules.hash_lookahead))

    def _leave(self, request: LiveRequest) -> None:
        self.aside.pop(request, None)
        super()._leave(request)

    def preempt(self, request: LiveRequest, taken_back: int) -> None:
        """As the base class; whatever is in flight has to land before it runs again."""
        assert isinstance(request, DraftedRequest)
        super().preempt(request, taken_back)
        request.drafts = 0
        request.prefilling = False
        request.stale = request.in_flight

    def _advance(self, plan: DraftPlan) -> None:
        """``_update_after_schedule``: outputs that a step will have get their places."""
        drafts, ahead = self.rules.tokens, self.config.async_scheduling
        for request, tokens, verified, _ in plan.shares:
            request.in_flight += tokens
            if request.computed < request.num_tokens + request.placeholders:
                request.prefilling = True
                plan.silent.add(request)
                continue
            request.prefilling = False
            if not request.samples:
                plan.first.append(request)
            request.samples += 1
            if ahead:
                request.placeholders += 1 + verified
                request.drafts = drafts
        batch = plan.batch
        batch.sampled_requests = len(plan.shares) - len(plan.silent)
        if plan.shares and (self.drafts_wanted or not self.rules.outputs_first):
            batch.drafting = drafts
        if plan.silent or self.prefills:
            running = cast("list[DraftedRequest]", list(self.running))
            self.prefills = [request for request in running if request.prefilling]
        if plan.carries_prefill:
            self.steps_since_prefill = 1
        elif plan.shares:
            self.steps_since_prefill += 1

    def _drafts_serve(self, request: DraftedRequest) -> bool:
        """Whether drafts made after the step may be verified: it samples, and not for the last time."""
        if request.computed < request.num_tokens:
            return False
        outputs = request.num_tokens - request.prompt_tokens + 1 + (request.placeholders > 0)
        return outputs < request.max_tokens

    # -- after the step ---------------------------------------------------------------------------------

    def deliver(self, plan: StepPlan) -> None:
        """Hand out the outputs of an executed step; drafts that do not stand were never computed."""
        assert isinstance(plan, DraftPlan)
        silent, ahead, tokens_of_a_step = plan.silent, self.config.async_scheduling, self.rules.tokens
        for share in plan.shares:
            request, tokens, drafts, _ = share
            if request.status is Status.FINISHED:
                continue
            request.in_flight -= tokens
            stale = request.stale > 0
            if stale:
                request.stale -= tokens
            if silent and request in silent:
                if not ahead:
                    request.drafts = 0
                continue
            accepted = self._accepted(share) if drafts else 0
            self._sampled(request, drafts, accepted, stale)
            if request.num_tokens == request.length:
                plan.finish.append(request)
                if request.prefilling:
                    self.prefills.remove(request)
                self._finish(request)
            elif not ahead:
                request.drafts = tokens_of_a_step

    def _finish(self, request: LiveRequest) -> None:
        self._leave(request)  # what it computed was published as it came

    def _sampled(self, request: DraftedRequest, drafts: int, accepted: int, stale: bool) -> None:
        """``accepted`` drafts of a request stand, and one more token is sampled."""
        more, left = accepted + 1, request.length - request.num_tokens
        if more > left:
            more = left
        request.num_tokens += more
        if stale:
            return
        # What was rejected, and what stands beyond the last token, is not computed.
        request.computed -= drafts + 1 - more
        if request.placeholders:
            request.placeholders -= drafts + 1
        if self.caching and request.status is Status.RUNNING:
            self.publish_until(request, request.computed - request.in_flight)

    def _accepted(self, share: Share) -> int:
        request, _, drafts, padded = share
        accepted = 0
        if not padded:
            accepted = self.acceptance.accepted(request.key, request.verified, drafts)
            request.verified += 1
        counts = self.drafted
        counts.proposed[drafts] += 1
        counts.accepted[accepted] += 1
        return accepted
