"""What one call of SGLang's scheduler decided, as far as anybody needs to know later."""

from __future__ import annotations

from kvplan.engine.protocols import StepBatch
from kvplan.engine.sglang.live import SglangRequest


class SglangPlan:
    """One batch.

    Attributes:
        batch: composition, for the latency model.
        extends: requests in prefill, in batch order.
        decodes: whether the running requests take a token, too (a decode or a mixed batch).
        chunked: the request among ``extends`` whose prefill is not finished with this batch.
        retracted: requests that had to go to make room. aborted: who was left then, and does not fit alone.
        tick: of the decode batch, this step included.
        ends: tokens with KV after this batch, for each of ``extends``.
        leaving: decoding requests that finish with this batch and were left out of the next one.
        ended: requests that had all they need when it was made, without a step.
        scheduled: (request, tokens) in batch order; kept only for a decision log.
    """

    __slots__ = (
        "aborted", "batch", "chunked", "decodes", "ended", "ends", "extends", "leaving", "retracted",
        "scheduled", "tick",
    )  # fmt: skip

    def __init__(self) -> None:
        self.batch = StepBatch()
        self.extends: list[SglangRequest] = []
        self.ends: list[int] = []
        self.decodes = False
        self.tick = 0
        self.leaving: list[SglangRequest] = []
        self.chunked: SglangRequest | None = None
        self.retracted: list[SglangRequest] = []
        self.aborted: list[SglangRequest] = []
        self.ended: list[SglangRequest] = []
        self.scheduled: list[tuple[SglangRequest, int]] = []

    @property
    def moves(self) -> bool:
        """Whether making it has changed something for those who wait, though nothing may run."""
        return bool(self.retracted or self.aborted or self.ended)

    def extend(self, page: int) -> tuple[int, int]:
        """Its requests in prefill get whole pages for what is computed of them.

        Returns:
            Tokens that are computed, and tokens of the pages that were not allocated before.
        """
        batch = self.batch
        asked = needed = 0
        self.ends = [request.computed for request in self.extends]
        for request in self.extends:
            before, tokens = request.prefix, request.computed - request.prefix
            asked += tokens
            room = -(-request.computed // page) * page
            needed += room - request.held.allocated
            request.held.allocated = room
            if request is not self.chunked:
                batch.sampled_requests += 1
            if before >= request.prompt_tokens:
                batch.decode_context += before + tokens
                if tokens == 1:
                    batch.decode_requests += 1
                    batch.decode_kv_tokens += before + 1
                    continue
            batch.prefill_chunks.append((before, tokens))
        batch.scheduled_tokens += asked
        return asked, needed
