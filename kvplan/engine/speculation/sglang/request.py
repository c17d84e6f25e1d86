"""A request of SGLang's whose drafts are verified, and what a batch has of it."""

from __future__ import annotations

from kvplan.engine.sglang.live import MIXED_IN, SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.traces.request import Request

DRAFT_COUNTERS = ("ahead", "key", "room", "verified")
"""Attributes of a ``DraftedRequest``, for the classes that mix it in."""


class DraftedRequest(SglangRequest):
    """Counters of one request, none of them stale: it is advanced by itself. Mixed into a request.

    ``computed`` counts what is known to stand (``kv_committed_len``), ``outputs`` likewise.

    Attributes:
        room: tokens it has places for (``kv_allocated_len``); whole pages once it has decoded.
        ahead: outputs of batches in flight. key: what draws of it go by; verified: how often drafts of it
            were.
    """

    __slots__ = MIXED_IN

    ahead: int
    key: int
    room: int
    verified: int

    def __init__(self, request: Request, key: int) -> None:
        super().__init__(request)
        self.key = key
        self.ahead = self.room = self.verified = 0

    @property
    def on_device(self) -> int:
        """Tokens with KV when everything in flight has run."""
        return self.prompt_tokens + self.outputs + self.ahead - 1


class DraftedSglangRequest(DraftedRequest):
    """One whose layers all keep their context."""

    __slots__ = DRAFT_COUNTERS


class DraftedSglangPlan(SglangPlan):
    """One batch.

    Attributes:
        shares: requests that decode, in batch order, and how many drafts of each stand. In a mixed batch,
            which verifies nothing, none do.
    """

    __slots__ = ("shares",)

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[tuple[DraftedRequest, int]] = []
