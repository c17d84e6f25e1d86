"""Groups that keep a recurrent state instead of keys and values (Mamba, linear attention)."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.engine.config import CacheGroup
from kvplan.engine.reference.groups import Find, Found, GroupManager, Shared
from kvplan.engine.reference.pool import NULL_BLOCK, Key
from kvplan.engine.reference.state import RequestState
from kvplan.engine.retention import retained_blocks


class RunningState(GroupManager):
    """One state a request, overwritten in place: what an engine without prefix caching keeps."""

    def need(
        self, state: RequestState, tokens: int, hit: Sequence[int], computed: int, *, admission: bool
    ) -> int:
        """One block, taken once."""
        del tokens, hit, computed, admission
        return 0 if state.blocks[self.index] else 1

    def settled_until(self, state: RequestState, processed: int) -> int:
        """One block is enough for any length."""
        del state, processed
        return self.config.max_model_len

    def grow(self, state: RequestState, tokens: int) -> None:
        """Take the block."""
        del tokens
        if not state.blocks[self.index]:
            state.blocks[self.index] = self.pool.take(1)

    def load(self, state: RequestState, tokens: int) -> None:
        """Take the block."""
        self.grow(state, tokens)


class BoundaryStates(GroupManager):
    """States at block boundaries (``mamba_cache_mode="align"``): a step reads one block and writes another.

    Entry i of the table holds the state after ``(i + 1) * block_size`` tokens, or, as the last entry, the
    running state on its way there. A step that ends in a new block leaves null entries for the boundaries
    it passed over; the state it started from is given back when a later step has been delivered, and lives
    on in the cache if it was published.
    """

    downward_closed = False

    def __init__(self, index: int, group: CacheGroup, shared: Shared) -> None:
        super().__init__(index, group, shared)
        self._published_this_step: set[Key] = set()

    def longest_hit(self, find: Find, limit_tokens: int, *, drop: bool) -> tuple[int, list[Found]]:
        """The right-most cached state at an aligned boundary; no layer that drafts has states."""
        del drop
        for block_index in range(limit_tokens // self.block_size - 1, -1, -1):
            if (block_index + 1) * self.block_size % self.alignment:
                continue
            blocks = find(block_index)
            if blocks is not None:
                return (block_index + 1) * self.block_size, [None] * block_index + [blocks]
        return 0, []

    def skipped_tokens(self, computed: int) -> int:
        """Only the state after the last token matters."""
        return computed - 1

    def next_drop(self, processed: int) -> int:
        """When the first token after the next boundary is processed."""
        return (-(-processed // self.block_size) or 1) * self.block_size + 1

    def need(
        self, state: RequestState, tokens: int, hit: Sequence[int], computed: int, *, admission: bool
    ) -> int:
        """One block for a step that ends in a new one. A state that is only being computed in this very
        step cannot be read yet: then more than the pool has is asked for, and the request waits.
        """
        del computed, admission
        if hit and self.is_fresh(hit[-1]):
            return self.pool.num_blocks + 1
        missing = -(-tokens // self.block_size) - len(hit) - len(state.blocks[self.index])
        return (1 if missing > 0 else 0) + self.unheld(hit)

    def is_fresh(self, block: int) -> bool:
        """Whether a cached state is being computed in this very step."""
        return self.pool.key_of[block] in self._published_this_step

    def drop_out_of_reach(self, state: RequestState, processed: int) -> None:
        """Give back states older than the one the next step starts from."""
        table = state.blocks[self.index]
        stop = min((processed - 1) // self.block_size, len(table))
        dropped = []
        for block_index in range(stop - 1, state.num_dropped[self.index] - 1, -1):
            if table[block_index] != NULL_BLOCK:
                dropped.append(table[block_index])
                table[block_index] = NULL_BLOCK
        if dropped:
            self.pool.release(dropped)
        state.num_dropped[self.index] = max(stop, state.num_dropped[self.index])

    def grow(self, state: RequestState, tokens: int) -> None:
        """Take one block for the boundary the step ends at or before; those it passes stay null."""
        table = state.blocks[self.index]
        last = -(-tokens // self.block_size) - 1
        if last < len(table):
            return
        table.extend([NULL_BLOCK] * (last - len(table)))
        table.extend(self.pool.take(1))

    def retained(self, state: RequestState, start: int, stop: int) -> Sequence[int]:
        """The states at the boundaries that ``retained_blocks`` keeps."""
        if self.config.retention_interval is None:
            return range(start, stop)
        return retained_blocks(
            start,
            stop,
            needed=1,
            block_size=self.block_size,
            alignment=self.alignment,
            interval=self.config.retention_interval,
            boundaries=self.boundaries(state),
        )

    def publish_block(self, block: int, key: Key) -> None:
        """Make a state findable, from the next step on."""
        super().publish_block(block, key)
        self._published_this_step.add(key)

    def release(self, state: RequestState) -> None:
        """Give back what is held."""
        super().release(state)
        state.num_dropped[self.index] = 0

    def start_step(self) -> None:
        """States published in earlier steps can be read now."""
        self._published_this_step.clear()
