"""The block that a prompt ends in, of full attention in blocks longer than those that are hashed."""

from __future__ import annotations

from math import gcd

from kvplan.engine.reference.groups import GroupManager
from kvplan.engine.reference.pool import Key
from kvplan.engine.reference.state import RequestState


class PromptTails(GroupManager):
    """Where it does not use the last block found, vLLM publishes that block before it is full.

    Hits do not end inside a block, so nobody finds it; but it is evicted like one that could be found
    (``FullAttentionManager._cache_partial_tail_block``).
    """

    def publish(self, state: RequestState, tokens: int) -> None:
        """As the base class, and the block that the prompt ends in as soon as its hashed part is computed."""
        super().publish(state, tokens)
        table, hashed = state.blocks[self.index], gcd(*(group.block_size for group in self.config.groups))
        end = state.prompt_tokens - state.prompt_tokens % hashed
        place = end // self.block_size
        if not self.drops or not 0 < end <= tokens or not end % self.block_size or place >= len(table):
            return
        if self.pool.key_of[table[place]] is None:
            self.pool.publish(table[place], (self.index, state.prefix_id(self.chain, end)))

    def publish_block(self, block: int, key: Key) -> None:
        """As the base class; it may have been published before it was full."""
        if self.pool.key_of[block] is not None:
            self.pool.unpublish(block)
        super().publish_block(block, key)
