"""The contract between the prefix index and a replacement policy, and the names users pick one by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvplan.engine.replacement.tracked import TrackedSegment
from kvplan.registry import Registry

if TYPE_CHECKING:
    from kvplan.engine.replacement.foresight import Foresight
    from kvplan.engine.replacement.pool import RankedPool


class Replacement(Protocol):
    """Decides which unreferenced published blocks are evicted next.

    The index only ever takes blocks from the end of a segment, and only if the segment is *evictable*:
    nobody holds it, and either no cached block follows it or another copy has the same content. As long as
    any cached block is unreferenced, some segment is evictable: whoever holds a block holds a copy of
    every block before it.
    """

    def account(self, segment: TrackedSegment, blocks: int) -> None:
        """``blocks`` of the segment became unreferenced, or (negative) got a holder or were evicted.

        Called with all blocks of a segment when it loses its last holder, before it may be offered.
        """
        ...

    def offer(self, segment: TrackedSegment) -> None:
        """The segment is evictable from now on, until it is chosen or its ``ticket`` is reset to 0."""
        ...

    def choose(self, most: int) -> tuple[TrackedSegment, int]:
        """Choose an evictable segment and how many of its last blocks go: between 1 and ``most``.

        Called only if something was offered and is still evictable. The choice is carried out at once; if
        blocks of the segment are left, it is offered again.
        """
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a policy may look at.

    Attributes:
        pool: ``pool.cached`` unreferenced cached blocks of ``pool.usable``; ``pool.now`` counts events.
        block_size: tokens per block.
        foresight: the requests to come, for the offline optimum; ``None`` otherwise.
    """

    pool: RankedPool
    block_size: int
    foresight: Foresight | None = None


REPLACEMENT: Registry[Callable[[Surroundings], Replacement]] = Registry("eviction policy")
"""Every policy but ``lru``, which is the engine's own queue."""
