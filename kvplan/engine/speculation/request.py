"""A request whose drafts are verified, and what a step has of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.live import LiveRequest
from kvplan.engine.prefix_node import Node
from kvplan.engine.remote.plan import FencedPlan
from kvplan.traces.request import Request


class DraftedRequest(HybridRequest):
    """Counters of one request, under the names of vLLM's ``Request``; with one cache group as with several.

    ``computed`` counts drafts as if they stood, until a step in which some do not is delivered. ``stale``
    counts tokens in flight, not outputs.

    Attributes:
        length: its tokens when it ends. reach: those that the step being planned computes it to.
        drafts: those that wait to be verified.
        prefilling: whether known tokens are left to compute. key: what draws of it go by; verified: how often
            drafts of it were.
    """

    __slots__ = ("drafts", "key", "length", "prefilling", "reach", "verified")

    def __init__(self, request: Request, root: Node, key: int) -> None:
        super().__init__(request, root)
        self.length = request.prompt_tokens + request.output_tokens
        self.drafts = self.verified = self.reach = 0
        self.prefilling = False
        self.key = key


Share: TypeAlias = tuple[DraftedRequest, int, int, bool]
"""A request's part of a step: tokens computed, how many of them are drafts, and whether these are mere
placeholders, none of which can stand."""


class DraftPlan(FencedPlan):
    """One planned step.

    Attributes:
        shares: everybody's part, in scheduling order. silent: those who sample nothing with it.
    """

    __slots__ = ("shares", "silent")

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[Share] = []
        self.silent: set[DraftedRequest] = set()

    def drop(self, request: LiveRequest) -> None:
        """As the base class; what it brings for the request goes nowhere."""
        super().drop(request)
        assert isinstance(request, DraftedRequest)
        self.silent.add(request)

    def take(self, shares: Iterable[Share]) -> None:
        """Count these parts of the step; the requests' computed tokens include them."""
        batch, kept, aboard = self.batch, self.shares, self.aboard
        decodes = attended = whole = 0
        for share in shares:
            kept.append(share)
            request, tokens, drafts, _ = share
            computed = request.computed
            if tokens == 1 + drafts and computed - tokens >= request.prompt_tokens:
                aboard.add(request)
                decodes += 1
                whole += tokens
                attended += computed
            else:
                self.add(request, computed - tokens, tokens)
        batch.scheduled_tokens += whole
        batch.decode_context += attended
        batch.decode_requests += decodes
        batch.decode_kv_tokens += attended
