"""Which chunks of the host go first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence, Set
from typing import Literal, Protocol, TypeAlias

from kvplan.engine.offloading.arc import Arc
from kvplan.engine.offloading.lru import Lru
from kvplan.engine.offloading.use import Use

EvictionPolicy: TypeAlias = Literal["lru", "arc"]


class Order(Protocol):
    """An order of the chunks that are in the host; those that no copy reads or writes are idle."""

    def missed(self, names: Sequence[int]) -> None:
        """A request would store these, in the order of its prompt, and they are not there."""
        ...

    def met(self, names: Sequence[int], use: Use) -> None:
        """A request comes across chunks for the first time; they need not be there."""
        ...

    def insert(self, names: Sequence[int], use: Use) -> None:
        """Chunks begin to be written for a request."""
        ...

    def settled(self, names: Iterable[int]) -> None:
        """No copy reads or writes these chunks any more."""
        ...

    def ended(self, use: Use) -> None:
        """A request is over."""
        ...

    def evict(self, count: int, keep: Collection[int]) -> list[int] | None:
        """Drop so many idle chunks that are not to be kept, first to go first; None if too few."""
        ...


def make_order(policy: EvictionPolicy, capacity: int, idle: Set[int]) -> Order:
    """The order of a cache of so many chunks; ``idle`` is kept up to date by whoever copies."""
    return Lru(idle) if policy == "lru" else Arc(capacity, idle)
