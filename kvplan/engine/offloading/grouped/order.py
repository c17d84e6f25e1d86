"""Which chunks of the host go first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from kvplan.engine.offloading.grouped.adaptive import Arc
from kvplan.engine.offloading.grouped.chunk import Key, Use
from kvplan.engine.offloading.grouped.recency import Lru
from kvplan.engine.offloading.order import EvictionPolicy


class ChunkOrder(Protocol):
    """An order of the chunks that are in the host; ``readers`` says of each whether it may go."""

    def missed(self, keys: Sequence[Key]) -> None:
        """A request would store these, in this order, and they are not there."""
        ...

    def met(self, use: Use, keys: Sequence[Key]) -> None:
        """A request comes across chunks for the first time, some of which may not be there."""
        ...

    def insert(self, use: Use, key: Key) -> None:
        """A chunk begins to be written for a request."""
        ...

    def ended(self, use: Use) -> None:
        """A request is over."""
        ...

    def evict(self, chunks: int, keep: Collection[Key]) -> list[Key] | None:
        """Take out so many that are idle and not to be kept, and say which.

        None, and nothing happens, if there are too few.
        """
        ...

    def rows(self) -> list[list[Key]]:
        """What is there, and what is remembered, first to go first; for whoever looks."""
        ...


def make_order(policy: EvictionPolicy, capacity: int, readers: dict[Key, int]) -> ChunkOrder:
    """The order of a cache of so many chunks."""
    return Lru(readers) if policy == "lru" else Arc(capacity, readers)
