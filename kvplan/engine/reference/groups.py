"""How one cache group keeps its blocks, and the plainest kind of group: full attention (MLA too).

A group's table has one entry a block of the sequence; an entry whose block was given back, or never taken,
is the null block. Vocabulary of positions: *processed* tokens are those whose step has been delivered,
*computed* ones include steps in flight, *covered* ones those the step being planned will have computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.reference.pool import NULL_BLOCK, BlockPool, Key
from kvplan.engine.reference.state import PrefixChain, RequestState

Found: TypeAlias = tuple[int, ...] | None
"""Blocks that hold the same tokens, one for each of the groups looked up together; None: not needed."""

Find: TypeAlias = Callable[[int], Found]
"""Looks up the block with this index; None unless every one of the groups has it cached."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all groups of one cache have in common."""

    config: EngineConfig
    pool: BlockPool
    chain: PrefixChain


class GroupManager:
    """Full attention: every block is kept, a hit is the longest run of cached blocks from the start.

    Subclasses say which tokens a group has no use for any more (``skipped_tokens``), what a hit needs
    (``longest_hit``) and which full blocks are worth publishing (``retained``).
    """

    downward_closed = True
    """Whether a hit of n tokens implies hits of every shorter block-aligned length."""

    drops = False
    """Whether layers that draft are in the group or in one looked up with it: a look-up goes one block
    further, and the last block that it finds is not used."""

    def __init__(self, index: int, group: CacheGroup, shared: Shared) -> None:
        config = shared.config
        self.index = index
        self.group = group
        self.block_size = group.block_size
        self.config = config
        self.pool = shared.pool
        self.chain = shared.chain
        self.alignment = config.hit_alignment
        self._admission_cap = group.admission_cap(config.max_in_flight_tokens, config.max_model_len)

    # -- look-up ----------------------------------------------------------------------------------------

    def key(self, state: RequestState, block_index: int) -> Key:
        """What block ``block_index`` is published under: its group and the prefix that ends with it."""
        return (self.index, state.prefix_id(self.chain, (block_index + 1) * self.block_size))

    def longest_hit(self, find: Find, limit_tokens: int, *, drop: bool) -> tuple[int, list[Found]]:
        """Tokens of the longest usable cached prefix of at most ``limit_tokens``, and what covers them.

        ``drop``: without the last block found.
        """
        found: list[Found] = []
        for block_index in range(limit_tokens // self.block_size):
            blocks = find(block_index)
            if blocks is None:
                break
            found.append(blocks)
        tokens = max(len(found) - drop, 0) * self.block_size
        tokens -= tokens % self.alignment
        del found[tokens // self.block_size :]
        return tokens, found

    # -- allocation -------------------------------------------------------------------------------------

    def skipped_tokens(self, computed: int) -> int:
        """Tokens at the front that no token after the first ``computed`` ones will look at."""
        del computed
        return 0

    def need(
        self, state: RequestState, tokens: int, hit: Sequence[int], computed: int, *, admission: bool
    ) -> int:
        """Blocks that leave the free queue if the request is to hold ``tokens`` tokens.

        ``computed`` counts the hit, and what is loaded behind it. Blocks out of reach are not asked for; a
        hit block that nobody holds counts, as touching it takes it out of the queue. ``admission``: the
        question is whether the whole sequence fits, where a group that gives blocks back on the way asks for
        no more than its cap.
        """
        required = -(-tokens // self.block_size)
        if admission and self._admission_cap is not None:
            required = min(required, self._admission_cap)
        held = len(state.blocks[self.index])
        if held:
            return max(required - held, 0)
        skipped = max(self.skipped_tokens(computed) // self.block_size, 0)
        return max(required - max(skipped, len(hit)), 0) + self.unheld(hit[skipped:])

    def unheld(self, blocks: Sequence[int]) -> int:
        """How many of the blocks are free, although cached."""
        ref_count = self.pool.ref_count
        return sum(1 for block in blocks if block != NULL_BLOCK and ref_count[block] == 0)

    def drop_out_of_reach(self, state: RequestState, processed: int) -> None:
        """Give back the blocks that lie wholly in the skipped tokens, last one first."""
        table = state.blocks[self.index]
        stop = min(self.skipped_tokens(processed) // self.block_size, len(table))
        dropped = []
        for block_index in range(stop - 1, -1, -1):
            if table[block_index] == NULL_BLOCK:
                break  # everything before was dropped earlier
            dropped.append(table[block_index])
            table[block_index] = NULL_BLOCK
        if dropped:
            self.pool.release(dropped)

    def adopt(self, state: RequestState, hit: Sequence[int], computed: int) -> None:
        """Take over the blocks of a hit at the start of the (empty) table, null where out of reach."""
        table = state.blocks[self.index]
        if table:
            return
        skipped = max(self.skipped_tokens(computed) // self.block_size, 0)
        kept = hit[skipped:]
        self.pool.touch(kept)
        table.extend([NULL_BLOCK] * skipped)
        table.extend(kept)
        state.num_published[self.index] = len(table)

    def grow(self, state: RequestState, tokens: int) -> None:
        """Extend the table to hold ``tokens`` tokens."""
        table = state.blocks[self.index]
        missing = -(-tokens // self.block_size) - len(table)
        if missing > 0:
            table.extend(self.pool.take(missing))

    def load(self, state: RequestState, tokens: int) -> None:
        """Extend the table to hold ``tokens`` tokens, the last of which are not computed but come."""
        GroupManager.grow(self, state, tokens)

    def settled_until(self, state: RequestState, processed: int) -> int:
        """Covered tokens up to which neither ``grow`` nor ``drop_out_of_reach`` has anything to do.

        ``processed`` is the number the latter was last called with; it stays below the covered tokens.
        """
        room = len(state.blocks[self.index]) * self.block_size
        dropping = self.next_drop(processed)
        return room if dropping is None else min(room, dropping)

    def next_drop(self, processed: int) -> int | None:
        """The smallest number of processed tokens at which one more block is out of reach; None: never."""
        del processed
        return None

    # -- publication and release ------------------------------------------------------------------------

    def boundaries(self, state: RequestState) -> list[int]:
        """Tokens after which later hits are expected: what replays the prompt, or goes on behind it, and
        what shares a prefix (``replay_boundaries``)."""
        prompt, shared, unit = state.prompt_tokens, state.shared_prefix_boundary, self.alignment
        found = [prompt - 1]
        if self.config.drops_blocks:
            found = [max(tokens // unit - 1, 0) * unit for tokens in (prompt - 1, prompt)]
        if shared:
            found.append(shared)
            if self.drops:
                found.append(shared - self.block_size)
        return found

    def retained(self, state: RequestState, start: int, stop: int) -> Sequence[int]:
        """Which of the full blocks ``start .. stop`` are to be published; the others never will be."""
        del state
        return range(start, stop)

    def publish(self, state: RequestState, tokens: int) -> None:
        """Publish blocks that the first ``tokens`` tokens fill and that were not dealt with yet."""
        start, stop = state.num_published[self.index], tokens // self.block_size
        if start >= stop:
            return
        table = state.blocks[self.index]
        for block_index in self.retained(state, start, stop):
            if table[block_index] != NULL_BLOCK:
                self.publish_block(table[block_index], self.key(state, block_index))
        state.num_published[self.index] = stop

    def publish_block(self, block: int, key: Key) -> None:
        """Make one block findable."""
        self.pool.publish(block, key)

    def release(self, state: RequestState) -> None:
        """Give the table back, last block first."""
        self.pool.release(reversed(state.blocks[self.index]))
        state.blocks[self.index] = []
        state.num_published[self.index] = 0

    def start_step(self) -> None:
        """Called once per ``schedule()``."""
