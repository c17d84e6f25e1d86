"""The block pool: ids, reference counts, the free queue that is also the LRU list, published keys."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from itertools import chain
from typing import TypeAlias

Key: TypeAlias = Hashable
"""Identity of a block's content: the same for equal tokens after an equal prefix, in the same group."""

NULL_BLOCK = 0


class BlockPool:
    """Blocks 0 .. n-1; block 0 is the null block and never handed out.

    ``free`` holds every block nobody references, in the order in which they will be taken: unpublished
    ones were put at its head, published ones at its tail. A published block in it is a cached block.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.ref_count = [0] * num_blocks
        self.key_of: list[Key | None] = [None] * num_blocks
        self.free: OrderedDict[int, None] = OrderedDict((block, None) for block in range(1, num_blocks))
        # Several blocks may carry one key (no de-duplication); the first published answers look-ups.
        self.published: dict[Key, dict[int, None]] = {}
        self.evicted_blocks = 0
        self.allocated_blocks = 0
        self.published_free = 0

    @property
    def free_blocks(self) -> int:
        """Blocks nobody references, cached ones included."""
        return len(self.free)

    def lookup(self, key: Key) -> int | None:
        """The block published first under ``key``, or ``None``."""
        blocks = self.published.get(key)
        return next(iter(blocks)) if blocks else None

    def take(self, count: int) -> list[int]:
        """Remove ``count`` blocks from the head of the free queue; a published one is evicted.

        The caller has checked ``count <= free_blocks``.
        """
        taken = []
        for _ in range(count):
            block, _ = self.free.popitem(last=False)
            if self.key_of[block] is not None:
                self.unpublish(block)
                self.evicted_blocks += 1
                self.published_free -= 1
            self.ref_count[block] = 1
            taken.append(block)
        self.allocated_blocks += count
        return taken

    def touch(self, blocks: Iterable[int]) -> None:
        """Take a reference on cached blocks; one that nobody held leaves the free queue."""
        for block in blocks:
            if block == NULL_BLOCK:
                continue
            if self.ref_count[block] == 0:
                del self.free[block]
                self.published_free -= 1
            self.ref_count[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Drop a reference on each block, in the order given.

        Of the blocks that become free, published ones are appended to the queue in that order, the others
        are put before its head as a whole, keeping that order: the first of them is the next to be taken.
        """
        unpublished = []
        for block in blocks:
            if block == NULL_BLOCK:
                continue
            self.ref_count[block] -= 1
            assert self.ref_count[block] >= 0
            if self.ref_count[block]:
                continue
            if self.key_of[block] is None:
                unpublished.append(block)
            else:
                self.free[block] = None
                self.published_free += 1
        for block in reversed(unpublished):
            self.free[block] = None
            self.free.move_to_end(block, last=False)

    def publish(self, block: int, key: Key) -> None:
        """Make a full block findable by its content."""
        assert self.key_of[block] is None
        self.key_of[block] = key
        same = self.published.get(key)
        if same is None:
            self.published[key] = {block: None}
        else:
            same[block] = None

    def unpublish(self, block: int) -> None:
        """A block's content is about to be lost: nobody finds it any more."""
        key = self.key_of[block]
        same = self.published[key]
        del same[block]
        if not same:
            del self.published[key]
        self.key_of[block] = None

    def check(self, tables: Iterable[Iterable[int]] | None = None) -> None:
        """Assert the conservation law: free + referenced + cached + null == total.

        ``tables``: all block tables there are; then each block is referenced as often as it stands in them,
        and the null block, which fills the entries nobody needs, is never referenced, free or published.
        """
        # Made after every step of a checked run: blocks are looked at in C.
        counts, keys = self.ref_count, self.key_of
        referenced = self.num_blocks - counts.count(0)
        cached = len(self.free) - [*map(keys.__getitem__, self.free)].count(None)
        assert len(counts) == len(keys) == self.num_blocks
        assert cached == self.published_free
        assert (len(self.free) - cached) + referenced + cached + 1 == self.num_blocks
        assert not any(map(counts.__getitem__, self.free))
        assert counts[NULL_BLOCK] == 0
        assert NULL_BLOCK not in self.free
        assert keys[NULL_BLOCK] is None
        assert all(keys[block] == key for key, same in self.published.items() for block in same)
        assert sum(map(len, self.published.values())) == len(keys) - keys.count(None)
        if tables is not None:
            standing = Counter(chain.from_iterable(tables))
            del standing[NULL_BLOCK]
            assert len(standing) == referenced
            assert all(counts[block] == count for block, count in standing.items())
