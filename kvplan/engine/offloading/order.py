"""Which chunks of the host go first."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, Protocol, TypeAlias

from kvplan.engine.offloading.arc import Arc
from kvplan.engine.offloading.chunk import ChunkRun, ChunkTree
from kvplan.engine.offloading.lru import Lru
from kvplan.engine.offloading.spans import Span
from kvplan.engine.offloading.use import Use

EvictionPolicy: TypeAlias = Literal["lru", "arc"]


class Order(Protocol):
    """An order of the chunks that are in the host; those that no copy reads or writes may go."""

    def missed(self, use: Use, spans: list[Span]) -> None:
        """A request would store these, in the order of its prompt, and they are not there."""
        ...

    def met(self, use: Use, spans: list[Span]) -> None:
        """A request comes across chunks for the first time; of these, those that are there."""
        ...

    def insert(self, use: Use, runs: list[ChunkRun]) -> None:
        """Chunks begin to be written for a request."""
        ...

    def ended(self, use: Use) -> None:
        """A request is over."""
        ...

    def evict(self, chunks: int, keep: Collection[ChunkRun]) -> bool:
        """Drop so many chunks that are idle and not to be kept; False, and nothing happens, if too few."""
        ...


def make_order(policy: EvictionPolicy, capacity: int, tree: ChunkTree) -> Order:
    """The order of a cache of so many chunks."""
    return Lru(tree) if policy == "lru" else Arc(capacity, tree)
