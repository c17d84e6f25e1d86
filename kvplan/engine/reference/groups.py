"""How one cache group keeps its blocks: full attention (MLA too), sliding window, recurrent state."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.reference.pool import BlockPool, Key
from kvplan.engine.reference.state import RequestState


class GroupManager:
    """Full attention: every block is kept, a hit is the longest run of cached blocks from the start."""

    downward_closed = True
    """Whether a hit of n tokens implies hits of every shorter block-aligned length."""

    def __init__(
        self,
        index: int,
        group: CacheGroup,
        config: EngineConfig,
        pool: BlockPool,
        hash_block: int,
        scheduler_block: int,
    ) -> None:
        self.index = index
        self.group = group
        self.config = config
        self.pool = pool
        self.scheduler_block = scheduler_block
        self._hashes_per_block = group.block_size // hash_block

    def key(self, prefix_ids: Sequence[int], block_index: int) -> Key:
        """What block ``block_index`` is published under: its group and the prefix that ends with it."""
        return (self.index, prefix_ids[(block_index + 1) * self._hashes_per_block - 1])

    def longest_hit(self, prefix_ids: Sequence[int], limit_tokens: int) -> tuple[int, list[int]]:
        """Tokens and blocks of the longest usable cached prefix of at most ``limit_tokens``."""
        blocks: list[int] = []
        for block_index in range(limit_tokens // self.group.block_size):
            block = self.pool.lookup(self.key(prefix_ids, block_index))
            if block is None:
                break
            blocks.append(block)
        return len(blocks) * self.group.block_size, blocks

    def need(
        self, state: RequestState, tokens: int, hit: Sequence[int], hit_tokens: int, *, admission: bool
    ) -> int:
        """Blocks that leave the free queue if the request is to hold ``tokens`` tokens.

        A hit block that nobody holds counts: touching it takes it out of the queue.
        """
        del hit_tokens, admission
        required = -(-tokens // self.group.block_size)
        missing = max(required - len(hit) - len(state.blocks[self.index]), 0)
        return missing + self._unheld(hit)

    def _unheld(self, blocks: Sequence[int]) -> int:
        return sum(1 for block in blocks if block and self.pool.ref_count[block] == 0)

    def drop_out_of_reach(self, state: RequestState, computed: int) -> None:
        """Free blocks no later token of the request will look at."""

    def adopt(self, state: RequestState, hit: Sequence[int], hit_tokens: int) -> None:
        """Take over the blocks of a hit at the start of the table."""
        del hit_tokens
        self.pool.touch(hit)
        if hit:
            state.blocks[self.index].extend(hit)
            state.num_published[self.index] = len(hit)

    def grow(self, state: RequestState, tokens: int) -> None:
        """Extend the table to hold ``tokens`` tokens."""
        table = state.blocks[self.index]
        missing = -(-tokens // self.group.block_size) - len(table)
        if missing > 0:
            table.extend(self.pool.take(missing))

    def publish(self, state: RequestState, prefix_ids: Sequence[int], tokens: int) -> None:
        """Publish the blocks that the first ``tokens`` tokens fill and that are not published yet."""
        table = state.blocks[self.index]
        full = tokens // self.group.block_size
        for block_index in range(state.num_published[self.index], full):
            self.pool.publish(table[block_index], self.key(prefix_ids, block_index))
        state.num_published[self.index] = max(state.num_published[self.index], full)

    def release(self, state: RequestState) -> None:
        """Give the table back, last block first."""
        self.pool.release(reversed(state.blocks[self.index]))
        state.blocks[self.index] = []
        state.num_published[self.index] = 0

    def aligned_split(self, state: RequestState, new_tokens: int, computed: int) -> int:
        """How many of ``new_tokens`` to compute now, after ``computed``."""
        del state, computed
        return new_tokens

    def start_step(self) -> None:
        """Called once per ``schedule()``."""


def make_group_manager(
    index: int,
    group: CacheGroup,
    config: EngineConfig,
    pool: BlockPool,
    hash_block: int,
    scheduler_block: int,
) -> GroupManager:
    """The manager for a group's kind."""
    return GroupManager(index, group, config, pool, hash_block, scheduler_block)
