"""Groups that look at a bounded stretch of recent tokens: sliding windows and local chunks."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.engine.reference.groups import Find, Found, GroupManager
from kvplan.engine.reference.state import RequestState
from kvplan.engine.retention import retained_blocks


class SlidingWindow(GroupManager):
    """Each token sees ``window`` tokens, itself included; blocks behind the window are given back."""

    downward_closed = False

    @property
    def blocks_for_hit(self) -> int:
        """Blocks that cover the window before the first token to compute."""
        return -(-(self.group.window - 1) // self.block_size)

    def longest_hit(self, find: Find, limit_tokens: int, *, drop: bool) -> tuple[int, list[Found]]:
        """The right-most run of cached blocks that covers a window and ends aligned; at the very start of
        the sequence a shorter run will do.
        """
        wanted = self.blocks_for_hit + drop
        longest = limit_tokens // self.block_size
        found: list[Found] = [None] * longest
        run = 0
        for block_index in range(longest - 1, -1, -1):
            blocks = find(block_index)
            if blocks is None:
                run = 0
                continue
            if run == 0 and (block_index + 1 - drop) * self.block_size % self.alignment:
                continue
            found[block_index] = blocks
            run += 1
            if run >= wanted:
                del found[block_index + run - drop :]
                return len(found) * self.block_size, found
        # vLLM cuts a shorter run to what is aligned before it drops a block, and after.
        run -= run * self.block_size % self.alignment // self.block_size
        tokens = max(run - drop, 0) * self.block_size
        tokens -= tokens % self.alignment
        del found[tokens // self.block_size :]
        return tokens, found

    def skipped_tokens(self, computed: int) -> int:
        """Everything before the window of the next token."""
        return max(0, computed - self.group.window + 1)

    def next_drop(self, processed: int) -> int:
        """When the window has left the block it begins in."""
        blocks = self.skipped_tokens(processed) // self.block_size
        return (blocks + 1) * self.block_size + self.group.window - 1

    def retained(self, state: RequestState, start: int, stop: int) -> Sequence[int]:
        """The windows before the boundaries that ``retained_blocks`` keeps."""
        return retained_blocks(
            start,
            stop,
            needed=self.blocks_for_hit + self.drops,
            block_size=self.block_size,
            alignment=self.alignment,
            interval=self.config.retention_interval,
            boundaries=self.boundaries(state),
            behind=int(self.drops),
        )


class LocalChunks(GroupManager):
    """Each token sees the tokens before it in its own chunk (Llama 4); earlier chunks are given back.

    As vLLM's ``ChunkedLocalAttentionManager``; recorded under random options (``tests/golden/recorded``).
    """

    downward_closed = False

    def longest_hit(self, find: Find, limit_tokens: int, *, drop: bool) -> tuple[int, list[Found]]:
        """Whole chunks before the one the limit lies in are not needed; in that one, the longest run of
        cached blocks from its start.
        """
        assert not drop, "vLLM has no layers that draft in local chunks"
        first = self.skipped_tokens(limit_tokens) // self.block_size
        found: list[Found] = [None] * first
        for block_index in range(first, limit_tokens // self.block_size):
            blocks = find(block_index)
            if blocks is None:
                break
            found.append(blocks)
        return len(found) * self.block_size, found

    def skipped_tokens(self, computed: int) -> int:
        """All chunks before that of the next token."""
        return computed // self.group.window * self.group.window

    def next_drop(self, processed: int) -> int:
        """When the next chunk begins."""
        return (processed // self.group.window + 1) * self.group.window
