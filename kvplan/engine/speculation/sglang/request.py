"""A request of SGLang's whose drafts are verified, and what a batch has of it."""

from __future__ import annotations

from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.traces.request import Request


class DraftedSglangRequest(SglangRequest):
    """Counters of one request, none of them stale: it is advanced by itself.

    ``computed`` counts what is known to stand (``kv_committed_len``), ``outputs`` likewise.

    Attributes:
        room: tokens it has places for (``kv_allocated_len``); whole pages once it has decoded.
        ahead: outputs of batches in flight. key: what draws of it go by; verified: how often drafts of it
            were.
    """

    __slots__ = ("ahead", "key", "room", "verified")

    def __init__(self, request: Request, key: int) -> None:
        super().__init__(request)
        self.key = key
        self.ahead = self.room = self.verified = 0

    @property
    def on_device(self) -> int:
        """Tokens with KV when everything in flight has run."""
        return self.prompt_tokens + self.outputs + self.ahead - 1


class DraftedSglangPlan(SglangPlan):
    """One batch.

    Attributes:
        shares: requests that decode, in batch order, and how many drafts of each stand. In a mixed batch,
            which verifies nothing, none do.
    """

    __slots__ = ("shares",)

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[tuple[DraftedSglangRequest, int]] = []
