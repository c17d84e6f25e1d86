"""One free queue for all groups: blocks without content, then published ones in the order of release."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from kvplan.engine.blocks import BlockPool, Segment

Published: TypeAlias = "dict[int, CachedBlock]"
"""The published blocks of one group: the one published first under each name.

A name is the fingerprint of the prefix that ends with the block (``Content.fingerprint``, 64 bits), as
engines find blocks by a hash.
"""


class CachedBlock:
    """A published block of a window or state group; ``ref`` requests hold it.

    It stands in the same queue as segments do, under the same attributes.

    Attributes:
        table: where it is published.
        name: of the prefix that ends with it.
        later: if it was the first with this name, those published after it.
    """

    __slots__ = ("after", "before", "later", "name", "ref", "table")

    def __init__(self, table: Published, name: int) -> None:
        self.table = table
        self.name = name
        self.ref = 1
        self.before: Segment | None = None
        self.after: Segment | None = None
        self.later: list[CachedBlock] | None = None
        first = table.setdefault(name, self)
        if first is not self:
            if first.later is None:
                first.later = []
            first.later.append(self)

    @property
    def first(self) -> bool:
        """Whether a look-up finds it: it is cached, and was published first under its name."""
        return self.table.get(self.name) is self

    def forget(self) -> None:
        """It is evicted: nobody finds it any more."""
        first = self.table[self.name]
        if first is not self:
            assert first.later is not None
            first.later.remove(self)
        elif self.later:
            heir = self.later.pop(0)
            heir.later = self.later
            self.table[self.name] = heir
        else:
            del self.table[self.name]


class SharedPool(BlockPool):
    """Free blocks of one engine, whatever group they are taken for."""

    __slots__ = ("_evict",)

    def __init__(self, usable: int) -> None:
        super().__init__(usable)
        self._evict: Callable[[Segment, int], int] | None = None

    def segments_evicted_by(self, evict: Callable[[Segment, int], int]) -> None:
        """From the start: who drops blocks of a segment, at most so many, and says how many it dropped."""
        self._evict = evict

    @property
    def free(self) -> int:
        """Blocks nobody references, cached ones included."""
        return self.blank + self.cached

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
        self.evict(short)

    def evict(self, short: int) -> None:
        """Evict so many published blocks from the head of the queue."""
        self.evicted += short
        while short:
            entry = self.head
            assert entry is not None
            if isinstance(entry, CachedBlock):
                self.remove(entry, 1)
                entry.forget()
                short -= 1
            else:
                assert self._evict is not None
                short -= self._evict(entry, short)
