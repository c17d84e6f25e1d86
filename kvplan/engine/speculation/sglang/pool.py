"""SGLang's KV memory where requests have places for drafts, and the tree may know tokens by the next one."""

from __future__ import annotations

from kvplan.engine.content import Content
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import MIXED_IN, SglangRequest
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.prefix_radix import RadixIndex
from kvplan.engine.speculation.paired import Pairs
from kvplan.engine.speculation.sglang.request import DraftedRequest
from kvplan.traces.request import Request

_NOWHERE = -(1 << 40)
"""Token ids from here down are in no workload."""

DRAFT_SLOTS = ("_lookahead", "_pairs", "_unique")
"""Attributes of a ``DraftedPool``, for the classes that mix it in."""


class DraftedPool(TokenPool):
    """What drafts change in a pool of SGLang's; mixed into one."""

    __slots__ = MIXED_IN

    _lookahead: int
    _pairs: Pairs | None
    _unique: int

    def begin(self, lookahead: int) -> None:
        """Have the tree know a token by the ``lookahead`` ones behind it, too: 1 where EAGLE drafts."""
        self._lookahead = lookahead
        self._pairs = Pairs(lookahead) if lookahead else None
        self._unique = _NOWHERE

    def content(self, request: Request) -> Content:
        """Prompt and answer, as the tree knows them."""
        if self._pairs is not None:
            return self._pairs.content(request)
        return Content(request.prompt, request.output)

    def known(self, tokens: int) -> int:
        """As the base class; the last token has none behind it."""
        return max(tokens - self._lookahead, 0)

    def places(self, request: SglangRequest) -> int:
        """As the base class, with places for drafts."""
        return request.held.allocated

    def stood(self, request: DraftedRequest, tokens: int) -> None:
        """A verification has added ``tokens`` tokens, its outputs counted already."""

    def release(self, request: SglangRequest) -> None:
        """As the base class. Drafts beyond the last token stand, too, but only one of them is kept."""
        facts, most = request.request, request.prompt_tokens + request.max_new_tokens
        if not request.aborted:
            request.computed = min(request.computed, most)
        elif request.computed > most:
            # Who is given up may have more than was asked for. Nobody will ever look for that.
            more = request.computed - most
            self._unique -= more + 1
            request.held.content = self.content(facts._replace(output=(*facts.output, (self._unique, more))))
        super().release(request)


class DraftedTokenPool(DraftedPool):
    """The pool of one engine instance whose layers all keep their context.

    Args:
        config: engine options.
        lookahead: see ``DraftedPool.begin``.
        tree: what is cached, as of ``TokenPool``.
    """

    __slots__ = DRAFT_SLOTS

    def __init__(self, config: SglangConfig, lookahead: int, tree: RadixIndex | None = None) -> None:
        super().__init__(config, tree)
        self.begin(lookahead)
