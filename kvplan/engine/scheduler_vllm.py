"""vLLM's v1 scheduler, decision for decision, at a cost that does not grow with the batch.

As long as the step is *regular* (every decoding request gets its token, all blocks fit) the decoding
requests are advanced together (``SteadyDecodes``) and only requests in prefill, admissions and calendar
entries are looked at one by one. Where a step is not regular, requests are preempted from the end of the line
until it is, or it takes the explicit way, request by request, and they fall into step again (``crowded``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.admission import Admission
from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan
from kvplan.engine.steady import SteadyDecodes

if TYPE_CHECKING:
    from kvplan.engine.replacement.foresight import Foresight


class VllmScheduler(Admission):
    """Plans the steps of one engine instance."""

    watchful = False
    """Whether what ends may leave something to decide though nobody waits and no prompt is computed."""

    def __init__(
        self, config: EngineConfig, *, keep_schedule: bool = False, foresight: Foresight | None = None
    ) -> None:
        super().__init__(config, foresight, keep_schedule=keep_schedule)
        self.steady = SteadyDecodes(config.block_size)
        self.explicit: list[LiveRequest] = []
        """Decoding requests that are not in step; empty as long as steps are regular."""
        self.all_in_step = True
        self.in_flight = 0
        """Executed and undelivered steps when ``schedule()`` is called: 0, or 1 with async scheduling."""
        self.last_plan: StepPlan | None = None
        self.special_prefills = bool(
            config.long_prefill_token_threshold or config.prefill_schedule_interval > 1
        )
        """Whether options other than the token budget say how much of a prompt a step computes."""
        self.tail_prefills = True
        """Whether nobody in running order stands behind a request in prefill: then running out of budget
        can only shorten the last chunk."""
        self.steps_since_prefill = config.prefill_schedule_interval
        self.prefill_capacity_bound = False

    # -- schedule ---------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan:
        """Plan the next step and account for it as if it had run."""
        plan = self.new_plan()
        self.steady.lag = self.in_flight
        threshold, defer_prefills = 0, False
        if self.special_prefills:
            threshold, defer_prefills = self._prefill_threshold(), self._defers_prefills()
        if self.explicit or not self.regular(plan, threshold, defer_prefills):
            from kvplan.engine.crowded import schedule_crowded

            budget = schedule_crowded(self, plan, threshold, defer_prefills)
        else:
            budget = self.config.max_num_batched_tokens - plan.batch.scheduled_tokens
        if not plan.preempted:
            self._admit_waiting(plan, budget, threshold, defer_prefills)
            if self.special_prefills and not defer_prefills:
                self.prefill_capacity_bound = self.left_over()
        self._settle_samples(plan)
        self.last_plan = plan
        return plan

    def undecided(self) -> bool:
        """Whether the next step has something to decide, for all that is known now.

        Nothing is to be decided where all running requests decode in step, or one prompt takes all tokens
        that they leave, and nobody waits who could be admitted.
        """
        if self.explicit:
            return True
        config, prefills = self.config, self.prefills
        count = self.steady.count
        budget = config.max_num_batched_tokens - count
        if prefills:
            if len(prefills) > 1 or not self.tail_prefills or self.special_prefills:
                return True
            request = prefills[0]
            return not 0 < budget < request.num_tokens - request.computed
        if not count or budget < 0:
            return True
        waiting = self.waiting
        if not waiting.items:
            # Whoever waited has given up: the next step finds that the queue is empty.
            return self.special_prefills and self.prefill_capacity_bound
        if len(self.running) >= config.max_num_seqs:
            return False
        if self.special_prefills or not budget:
            return True
        return self.blocked != (waiting.head(), self.version)

    def proceed(self, in_flight: int) -> StepPlan | None:
        """Plan a step in which nothing is to be decided (``undecided``).

        Returns None, and has changed nothing, where the blocks do not suffice.
        """
        plan = self.new_plan()
        self.steady.lag = in_flight
        if not self.regular(plan, 0, False):
            return None
        self.steps_since_prefill = 1 if plan.carries_prefill else self.steps_since_prefill + 1
        return plan

    def settle_calendar(self, quiet: StepPlan) -> StepPlan:
        """What is due at the tick that a step of decoding requests only has brought.

        Returns the plan of that step: ``quiet``, or one of its own where requests end with it.
        """
        publishing, ending = self.steady.due()
        for request in publishing:
            self._publish_steady(request)
        if not ending:
            return quiet
        plan = self.new_plan()
        plan.batch.scheduled_tokens = quiet.batch.scheduled_tokens
        plan.finish = ending
        for request in ending:
            self.steady.leave(request, 1)
        return plan

    def new_plan(self) -> StepPlan:
        """An empty plan; strategies that count a step differently make their own."""
        return StepPlan()

    def _prefill_threshold(self) -> int:
        """``long_prefill_token_threshold`` as it applies now; 0 is none."""
        threshold = self.config.long_prefill_token_threshold
        if not threshold:
            return 0
        requests = len(self.running) + len(self.waiting)
        if requests == 1:
            return 0
        if self.config.long_prefill_adaptive and requests:
            return max(threshold, self.config.max_num_batched_tokens // requests)
        return threshold

    def _defers_prefills(self) -> bool:
        """``prefill_schedule_interval``: whether this step computes no prompt tokens."""
        if self.steps_since_prefill >= self.config.prefill_schedule_interval or self.prefill_capacity_bound:
            return False
        return len(self.running) > len(self.prefills)

    def left_over(self) -> bool:
        """Whether somebody who could have been let in still waits."""
        return bool(self.waiting.items)

    def regular(self, plan: StepPlan, threshold: int, defer_prefills: bool) -> bool:
        """Advance all running requests if nobody is short of budget or blocks; else change nothing."""
        steady = self.steady
        count = steady.count
        budget = self.config.max_num_batched_tokens - count
        if budget < 0:
            return False
        demand = steady.boundary_blocks if count else 0
        chunks: list[tuple[LiveRequest, int, int]] = []
        if self.prefills and not defer_prefills:
            found = self.chunks(budget, threshold)
            if found is None:
                return False
            chunks = found
            for _, _, blocks in chunks:
                demand += blocks
        if demand > self.pool.blank + self.pool.cached:
            return False
        if demand:
            self.index.take(demand)
        if chunks and not self.tail_prefills:
            self.take_turns()
        batch = plan.batch
        if self.keep_schedule:
            self._log_regular(plan, {request: tokens for request, tokens, _ in chunks})
        if count:
            steady.tick += 1
            batch.scheduled_tokens = batch.decode_requests = batch.sampled_requests = count
            batch.decode_context = batch.decode_kv_tokens = steady.base_sum + count * steady.tick
        publishing: list[LiveRequest] = []
        ending: list[LiveRequest] = []
        if steady.next_event() <= steady.tick:
            publishing, ending = steady.due()
        for request, tokens, blocks in chunks:
            while publishing and publishing[0].order < request.order:
                self._publish_steady(publishing.pop(0))
            plan.add(request, request.computed, tokens)
            plan.carries_prefill = True
            request.computed += tokens
            request.blocks += blocks
            self.publish(request)
        for request in publishing:
            self._publish_steady(request)
        for request in ending:
            steady.leave(request, 1)
            plan.finish.append(request)
        return True

    def take_turns(self) -> None:
        """Let those who decode behind a prompt in computation publish after it.

        What fills a block of theirs in the next step is published in their turn, not by the step itself.
        """
        if not self.caching:
            return
        first, steady = self.prefills[0].order, self.steady
        tick, size = steady.tick + 1 - steady.lag, steady.block_size
        for request in reversed(self.running):
            if request.order < first:
                break
            if request.steady is not None and not (request.base + tick) % size:
                self.close(request)

    def close(self, request: LiveRequest) -> None:
        """What the request computes from now on is published by its own account."""
        if request.tail.owner is request:
            self.index.close(request.tail)

    def chunks(self, budget: int, threshold: int) -> list[tuple[LiveRequest, int, int]] | None:
        """Prompts in computation, with the tokens of each that a step takes and the blocks these need.

        None where the budget does not suffice and somebody else stands behind a prompt.
        """
        chunks: list[tuple[LiveRequest, int, int]] = []
        for request in self.prefills:
            tokens = request.num_tokens - request.computed
            if 0 < threshold < tokens:
                tokens = threshold
            if tokens > budget:
                if not self.tail_prefills:
                    return None
                tokens = budget
            if tokens:
                tokens = self.chunk(request, tokens, request.computed)
            if tokens:
                blocks = -(-(request.computed + tokens) // self.block_size) - request.blocks
                chunks.append((request, tokens, blocks))
                budget -= tokens
        return chunks

    def _log_regular(self, plan: StepPlan, chunks: dict[LiveRequest, int]) -> None:
        for request in self.running:
            if request.steady is not None:
                plan.scheduled.append((request, 1))
            elif request in chunks:
                plan.scheduled.append((request, chunks[request]))

    def _publish_steady(self, request: LiveRequest) -> None:
        blocks = request.published_blocks()
        if blocks > request.in_tree:
            self.version += 1
            self.index.publish(request, blocks)
        if request.tail.owner is not request:
            self.steady.expect_publication(request)

    def wanted(self, request: LiveRequest, threshold: int, budget: int) -> int:
        """Tokens that a running request gets out of step."""
        if request.samples == request.max_tokens:
            return 0  # the step in flight brings the last token
        tokens = request.num_tokens + request.placeholders - request.computed
        if 0 < threshold < tokens:
            tokens = threshold
        return min(tokens, budget)

    def preemptible(self, request: LiveRequest) -> bool:
        """Whether a running request may be preempted now; if not, whoever needs its blocks goes without."""
        return True

    # -- after planning ---------------------------------------------------------------------------------

    def _settle_samples(self, plan: StepPlan) -> None:
        """Requests whose known tokens are now all scheduled sample an output and fall into step."""
        if self.prefills:
            still: list[LiveRequest] = []
            for request in self.prefills:
                if request.computed < request.num_tokens:
                    still.append(request)
                else:
                    self.sampled(plan, request)
            self.prefills = still
            self.tail_prefills = not still or still[0].order + self._places(still) == self.admissions
        if self.explicit and self.all_in_step:
            for request in self.explicit:
                self._fall_into_step(request)
            self.explicit = []
        if len(plan.finish) > 1:
            plan.finish.sort(key=_order)
        if plan.carries_prefill:
            self.steps_since_prefill = 1
        elif plan.batch.scheduled_tokens:
            self.steps_since_prefill += 1

    def _places(self, requests: list[LiveRequest]) -> int:
        """Places in the order of admission that requests take which have not sampled yet."""
        return len(requests)

    def sampled(self, plan: StepPlan, request: LiveRequest) -> None:
        """A request samples in this step: it finishes with it, or decodes on in step with the others."""
        plan.batch.sampled_requests += 1
        request.samples += 1
        if request.first_token_s < 0 and request.samples == 1:
            plan.first.append(request)
        if request.samples == request.max_tokens:
            request.placeholders = 1
            plan.finish.append(request)
            return
        self._fall_into_step(request)

    def _fall_into_step(self, request: LiveRequest) -> None:
        self.steady.join(request)
        if self.caching and request.tail.owner is not request:
            self.steady.expect_publication(request)

    # -- after the step ---------------------------------------------------------------------------------

    def deliver(self, plan: StepPlan) -> None:
        """Hand out the outputs of an executed step; finished requests give their blocks back."""
        for request in plan.samples:
            if request.steady is not None or request.status is Status.FINISHED:
                continue
            request.num_tokens += 1
            if request.status is not Status.RUNNING:
                request.stale -= 1
                continue
            if request.samples == request.max_tokens:
                continue  # its last output is in flight: all that can be published has been
            request.placeholders -= 1
            if self.caching:
                self.publish_until(request, request.computed - request.placeholders)
        for request in plan.finish:
            self._finish(request)

    def abort(self, request: LiveRequest) -> None:
        """Nobody waits for a request any more (vLLM's ``finish_requests``): it leaves, its blocks are free.

        Outputs of it that are in flight are lost (``StepPlan.drop``); nothing more of it is published.
        """
        if request.status is Status.RUNNING:
            self.take_out(request)
        self._leave(request)

    def take_out(self, request: LiveRequest) -> None:
        """A running request takes part in no further step."""
        if request.steady is not None:
            self.steady.leave(request, 0)
        elif request in self.prefills:
            self.prefills.remove(request)
        elif request in self.explicit:
            self.explicit.remove(request)

    def _finish(self, request: LiveRequest) -> None:
        if request.status is Status.RUNNING:
            self.complete(request)
        self._leave(request)

    def complete(self, request: LiveRequest) -> None:
        """All that a running request asked for is computed: others can find it."""
        if self.caching:
            self.publish_until(request, request.prompt_tokens + request.max_tokens - 1)

    def _leave(self, request: LiveRequest) -> None:
        self.version += 1
        if request.status is Status.RUNNING:
            del self.running[request]
        else:
            self.waiting.remove(request)
        request.status = Status.FINISHED
        self.give_back(request)


def _order(request: LiveRequest) -> int:
    return request.order
