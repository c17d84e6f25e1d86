"""What one ``schedule()`` call decided, as far as anybody needs to know later."""

from __future__ import annotations

from kvplan.engine.live import LiveRequest
from kvplan.engine.protocols import StepBatch


class StepPlan:
    """One planned step.

    Attributes:
        batch: composition, for the latency model.
        first: requests whose first output the step samples.
        finish: requests whose last output it samples, in scheduling order.
        samples: requests whose output is delivered one by one; those that decode in step are not listed.
        preempted: requests preempted to make room, in that order.
        admitted: requests scheduled for the first time ever.
        carries_prefill: whether it was to compute prompt tokens, those taken back by a preemption included
            (vLLM's ``prefill_scheduled``).
        scheduled: (request, tokens) in scheduling order; kept only for a decision log.
    """

    __slots__ = (
        "admitted", "batch", "carries_prefill", "finish", "first", "preempted", "samples", "scheduled",
    )  # fmt: skip

    def __init__(self) -> None:
        self.batch = StepBatch()
        self.first: list[LiveRequest] = []
        self.finish: list[LiveRequest] = []
        self.samples: dict[LiveRequest, None] = {}
        self.preempted: list[LiveRequest] = []
        self.admitted: list[LiveRequest] = []
        self.carries_prefill = False
        self.scheduled: list[tuple[LiveRequest, int]] = []

    def add(self, request: LiveRequest, before: int, tokens: int) -> None:
        """Count one request's part of the step."""
        batch = self.batch
        batch.scheduled_tokens += tokens
        if before >= request.prompt_tokens:
            batch.decode_context += before + tokens
            if tokens == 1:
                batch.decode_requests += 1
                batch.decode_kv_tokens += before + 1
                return
        batch.prefill_chunks.append((before, tokens))

    def drop(self, request: LiveRequest) -> None:
        """The request is gone before the step's outputs are delivered."""
        if request in self.finish:
            self.finish.remove(request)
