"""The running batch of SGLang's scheduler: one token for everybody in it, with every step."""

from __future__ import annotations

from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.retraction import Retracting


class Decoding(Retracting):
    """The part of a scheduler that makes batches of those who decode (``update_running_batch``)."""

    overlap: bool
    finishing: int
    keep_schedule: bool
    least_ratio: float
    ratio_decay: float

    def new_plan(self) -> SglangPlan:
        """A batch with nothing in it."""
        return SglangPlan()

    def _leave_finishing(self, before: SglangPlan | None) -> None:
        """With overlap, take out those whose last output comes with the batch in flight."""
        if before is None or not self.overlap:
            return
        leaving = self.decoding.finishing(self.decoding.tick)
        if leaving:
            self.full = False
            self.finishing = len(leaving)
            # Those of a prefill are among its requests, and found there.
            before.leaving = [request for request in leaving if request not in before.extends]

    def _finishes_in_flight(self) -> bool:
        """Whether somebody is taken to have the last output with the batch in flight."""
        return self.finishing > 0

    def _reserved(self) -> int:
        """Tokens the answers of running requests may still take, each clipped."""
        decoding = self.decoding
        clipped = decoding.clip + decoding.known
        return decoding.reserved + sum(1 for request in self.fresh if request.finish_tick < clipped)

    def _decode_batch(self, before: SglangPlan | None) -> SglangPlan:
        """One token for every running request (``update_running_batch``)."""
        plan = self.new_plan()
        decoding = self.decoding
        if decoding.count:
            self._leave_finishing(before)
        if not decoding.count:
            return plan
        if self._decode_fits():
            self.ratio = max(self.ratio - self.ratio_decay, self.least_ratio)
        elif self._finishes_in_flight():
            # Those give their memory back with the result in flight: the others wait for it.
            return plan
        else:
            self._retract(plan)
        if decoding.count:
            self._decode(plan)
        return plan

    def _decode(self, plan: SglangPlan) -> None:
        """``prepare_for_decode``: the allocator asks for a page for everyone, and takes what is needed."""
        decoding = self.decoding
        count = decoding.count
        self.pool.take(decoding.boundary_pages * self.page, count * self.page, "decode")
        decoding.tick += 1
        plan.tick = decoding.tick
        plan.decodes = True
        batch = plan.batch
        batch.scheduled_tokens += count
        batch.sampled_requests += count
        batch.decode_requests += count
        context = decoding.base_sum + count * decoding.tick
        batch.decode_context += context
        batch.decode_kv_tokens += context
        if self.keep_schedule:
            plan.scheduled.extend((request, 1) for request in decoding.in_order())
