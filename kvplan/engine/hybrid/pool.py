"""One free queue for all groups: blocks without content, then published ones in the order of release."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from kvplan.engine.blocks import BlockPool, Segment

Key: TypeAlias = tuple[int, int]
"""Group, and the identity of the prefix that ends with the block."""


class CachedBlock:
    """A published block of a window or state group; ``ref`` requests hold it.

    It stands in the same queue as segments do, under the same attributes.
    """

    __slots__ = ("after", "before", "key", "ref")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.ref = 1
        self.before: Segment | None = None
        self.after: Segment | None = None


class SharedPool(BlockPool):
    """Free blocks of one engine, whatever group they are taken for, and the single blocks published."""

    __slots__ = ("_evict", "_published")

    def __init__(self, usable: int) -> None:
        super().__init__(usable)
        self._published: dict[Key, list[CachedBlock]] = {}
        self._evict: Callable[[Segment, int], int] | None = None

    def segments_evicted_by(self, evict: Callable[[Segment, int], int]) -> None:
        """From the start: who drops blocks of a segment, at most so many, and says how many it dropped."""
        self._evict = evict

    @property
    def free(self) -> int:
        """Blocks nobody references, cached ones included."""
        return self.blank + self.cached

    def lookup(self, key: Key) -> CachedBlock | None:
        """The block published first under ``key``, or ``None``."""
        same = self._published.get(key)
        return same[0] if same else None

    def publish(self, key: Key) -> CachedBlock:
        """A block that one request holds becomes findable."""
        block = CachedBlock(key)
        self._published.setdefault(key, []).append(block)
        return block

    def hold(self, block: CachedBlock) -> None:
        """One more request holds a published block."""
        if block.ref == 0:
            self.remove(block, 1)  # type: ignore[arg-type]
        block.ref += 1

    def let_go(self, block: CachedBlock) -> None:
        """One request fewer holds a published block."""
        block.ref -= 1
        if block.ref == 0:
            self.append(block, 1)  # type: ignore[arg-type]

    def take(self, count: int) -> None:
        """Take blocks from the head of the queue; published ones are evicted.

        The caller has checked ``count <= free``.
        """
        self.allocated += count
        short = count - self.blank
        if short <= 0:
            self.blank = -short
            return
        self.blank = 0
        self.evicted += short
        while short:
            entry = self.head
            assert entry is not None
            if isinstance(entry, CachedBlock):
                self.remove(entry, 1)
                self._forget(entry)
                short -= 1
            else:
                assert self._evict is not None
                short -= self._evict(entry, short)

    def _forget(self, block: CachedBlock) -> None:
        same = self._published[block.key]
        same.remove(block)
        if not same:
            del self._published[block.key]
