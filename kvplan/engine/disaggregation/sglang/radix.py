"""A decode server with a radix cache (``--disaggregation-decode-enable-radix-cache``).

A prompt's prefix that the tree has is held and needs neither room nor sending. What came goes into the tree
when its request joins the batch, and with its answer when that ends. What is retracted is copied to the host
whole, and finds nothing in the tree when it comes back.
"""

from __future__ import annotations

from kvplan.engine.disaggregation.sglang.decode import DecodeReplica, DecodeScheduler, Retractable
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.radix_tree import Holding


class RadixDecodeScheduler(DecodeScheduler):
    """Prefixes are looked up when room is asked for, and again with every look that finds none."""

    def _admits(self, request: SglangRequest, more: int, running: Retractable) -> bool:
        """As the base class, for what the tree does not have; it holds the rest then."""
        tree, prompt = self.pool.tree, request.prompt_tokens
        found, node = tree.match(request.content, prompt)
        # While it is held, the prefix does not count as evictable.
        tree.lock(node)
        tokens = self._pages(prompt) - found + self.options.num_reserved_decode_tokens
        answer = min(request.max_new_tokens, self.config.clip_max_new_tokens)
        needed = max(tokens, prompt - found + answer - running.tokens)
        if needed > self._allocatable(more, running.longest):
            tree.unlock(node)
            return False
        request.holding = Holding(request.content, prompt, request.request.priority, node, found, found)
        return True

    def _allocate(self, request: SglangRequest, tokens: int) -> None:
        """As the base class, behind the prefix that it holds."""
        holding = request.holding
        if holding is None:
            super()._allocate(request, tokens)
            return
        room = self._pages(tokens)
        self.pool.take(room - holding.shared, room - holding.shared, "preallocation")
        holding.allocated = room
        request.computed = tokens
        self.queried_tokens += tokens
        self.hit_tokens += holding.shared
        self.rows -= 1


class RadixDecodeReplica(DecodeReplica):
    """One instance of the decode pool that keeps prefixes."""

    def make_scheduler(self) -> RadixDecodeScheduler:
        """See the base class."""
        made = RadixDecodeScheduler(self.config, self.options, keep_schedule=self.logging)
        self.decode = made
        return made
