"""A step's composition where requests attend to fewer tokens than they have computed."""

from __future__ import annotations

from kvplan.engine.holding.holder import Holder
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan


class HeldPlan(StepPlan):
    """``StepPlan`` that counts what the holder has kept.

    A chunk attends to what was kept before it and to itself; a decoded token to what is kept with it.
    """

    __slots__ = ("_holder",)

    def __init__(self, holder: Holder) -> None:
        super().__init__()
        self._holder = holder

    def add(self, request: LiveRequest, before: int, tokens: int) -> None:
        """Count one request's part of the step."""
        batch = self.batch
        batch.scheduled_tokens += tokens
        kept = self._holder.attended(request, before)
        if before >= request.prompt_tokens:
            after = self._holder.attended(request, before + tokens)
            if tokens > 1 or after < kept:  # computed again after a preemption, as a part of the prompt
                after = kept + tokens
            batch.decode_context += after
            if tokens == 1:
                batch.decode_requests += 1
                batch.decode_kv_tokens += after
                return
        batch.prefill_chunks.append((kept, tokens))
