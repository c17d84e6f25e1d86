"""Requests that run and are sent back into the queue: for want of memory, or for somebody more important."""

from __future__ import annotations

from kvplan.engine.sglang.admission import PrefillBudget
from kvplan.engine.sglang.config import RETRACT_DECODE_STEPS, SglangConfig
from kvplan.engine.sglang.live import DecodeBatch, SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.queue import WaitingQueue


class Retracting:
    """The part of a scheduler that takes memory from those who have it (``retract_decode``,
    ``preempt_to_schedule``)."""

    config: SglangConfig
    page: int
    pool: TokenPool
    waiting: WaitingQueue
    decoding: DecodeBatch
    fresh: list[SglangRequest]
    full: bool
    ratio: float
    processed: int
    preempts: bool
    preemptions: int
    preempted: list[SglangRequest]
    """Who made room for somebody more important in the batch that is being made."""

    def _decode_fits(self) -> bool:
        """Whether the pool has the pages that the next decode step needs."""
        return self.pool.fits(self.decoding.boundary_pages * self.page)

    def _known_outputs(self) -> dict[SglangRequest, int]:
        """Outputs of the running requests, in batch order, without those in flight."""
        decoding = self.decoding
        outputs = {request: decoding.outputs_of(request) for request in decoding.in_order()}
        for request in self.fresh:
            outputs[request] -= 1
        return outputs

    def _retract(self, plan: SglangPlan) -> None:
        """Send requests back until the others' next step fits: least important first, if priorities decide,
        then fewest outputs, then longest prompt.

        At least one goes, and one stays: if that one does not fit either, it is aborted.
        """
        decoding, rank = self.decoding, self.config.rank
        by_priority = self.config.retraction_policy == "priority"
        outputs = self._known_outputs()
        keep = sorted(
            outputs,
            key=lambda it: (
                -rank(it.request.priority) if by_priority else 0, outputs[it], -it.prompt_tokens
            ),
            reverse=True,
        )  # fmt: skip
        while len(keep) > 1 and not (plan.retracted and self._decode_fits()):
            victim = keep.pop()
            self._send_back(victim, outputs[victim], len(keep))
            plan.retracted.append(victim)
        if not self._decode_fits():
            last = keep.pop()
            self._let_go(last, outputs[last], 0)
            plan.aborted.append(last)
        self.full = False
        decoding.reorder(keep)
        decoded = sum(outputs[request] for request in keep) + RETRACT_DECODE_STEPS * len(keep)
        self.ratio = min(1.0, decoded / (sum(request.max_new_tokens for request in keep) + 1))
        self._requeue(plan.retracted)

    def _requeue(self, retracted: list[SglangRequest]) -> None:
        """They wait for memory again."""
        for request in retracted:
            self.waiting.enter(request, self.processed)

    def _preempt(self, request: SglangRequest, budget: PrefillBudget) -> bool:
        """Whether less important requests have made room for one that waits; they go back into the queue when
        the batch is made.

        What it needs is what it needed when it was last looked at (``full_untruncated_fill_ids``,
        ``prefix_len``), without its prompt if it never was. Of those that are sent back together, SGLang's
        order in the queue is that of a set: none that could be known.
        """
        config = self.config
        if not self.preempts:
            return False
        rank, clip = config.rank, config.clip_max_new_tokens
        outputs = self._known_outputs()
        shares = {it: min(it.max_new_tokens - outputs[it], clip) * self.ratio for it in outputs}
        missing = request.missing + min(request.max_new_tokens, clip) - budget.settle()
        victims: list[SglangRequest] = []
        for it in sorted(outputs, key=lambda it: (-rank(it.request.priority), -it.queued)):
            behind = rank(it.request.priority) - rank(request.request.priority)
            if behind <= config.priority_scheduling_preemption_threshold:
                break
            victims.append(it)
            missing -= shares[it]
            if missing <= 0:
                break
        if not victims or missing > 0:
            return False
        for it in [it for it in outputs if it in victims]:
            budget.give_back(shares[it])
            self._send_back(it, outputs[it], self.decoding.count - 1)
        self.fresh = [it for it in self.fresh if it not in victims]
        self.preempted += victims
        return True

    def _send_back(self, request: SglangRequest, outputs: int, remaining: int) -> None:
        """It will go back into the queue."""
        self._let_go(request, outputs, remaining)
        request.preemptions += 1
        self.preemptions += 1

    def _let_go(self, request: SglangRequest, outputs: int, remaining: int) -> None:
        """Free what a request has, leaving nothing in the tree, and make room for the others.

        An output in flight is lost: it keeps those that are known.
        """
        self.decoding.leave(request)
        request.outputs = outputs
        self.pool.drop(request)
        self.pool.make_room(remaining * RETRACT_DECODE_STEPS)
