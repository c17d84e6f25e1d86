"""SGLang's KV memory where requests have places for drafts, and the tree may know tokens by the next one."""

from __future__ import annotations

from kvplan.engine.content import Content
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.radix_tree import drop, release
from kvplan.engine.speculation.paired import Pairs
from kvplan.traces.request import Request

_NOWHERE = -(1 << 40)
"""Token ids from here down are in no workload."""


class DraftedPool(TokenPool):
    """The pool of one engine instance.

    Args:
        config: engine options.
        lookahead: tokens behind one by which the tree knows it, too: 1 where EAGLE drafts, else 0.
    """

    __slots__ = ("_lookahead", "_pairs", "_unique")

    def __init__(self, config: SglangConfig, lookahead: int) -> None:
        super().__init__(config)
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

    def checkpoint(self, request: SglangRequest, tokens: int) -> None:
        """As the base class."""
        super().checkpoint(request, self.known(tokens))

    def release(self, request: SglangRequest) -> None:
        """As the base class; places for drafts are given back."""
        holding, facts, computed = request.held, request.request, request.computed
        more = computed - request.prompt_tokens - request.max_new_tokens
        if more > 0:
            # Who is given up may have more than was asked for. Nobody will ever look for that.
            self._unique -= more + 1
            holding.content = self.content(facts._replace(output=(*facts.output, (self._unique, more))))
        if self.caching:
            self.free += release(self.tree, holding, self.known(computed))
        else:
            self.free += holding.allocated
        request.holding = None

    def drop(self, request: SglangRequest) -> None:
        """As the base class; places for drafts are given back."""
        self.free += request.held.private
        drop(self.tree, request.held)
        request.holding = None
        request.prefix = request.computed = 0
