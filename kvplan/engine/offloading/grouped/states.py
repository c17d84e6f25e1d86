"""Recurrent states that the device publishes, and hands to whoever stores them."""

from __future__ import annotations

from kvplan.engine.config import CacheGroup
from kvplan.engine.reference.groups import Shared
from kvplan.engine.reference.pool import NULL_BLOCK
from kvplan.engine.reference.recurrent import BoundaryStates
from kvplan.engine.reference.state import RequestState


class HandedStates(BoundaryStates):
    """Attributes:
    handed: what was published since somebody emptied the list: the block, and the token it ends with.
    """

    def __init__(self, index: int, group: CacheGroup, shared: Shared) -> None:
        super().__init__(index, group, shared)
        self.handed: list[tuple[int, int]] = []

    def publish(self, state: RequestState, tokens: int) -> None:
        """As the base class."""
        start = state.num_published[self.index]
        super().publish(state, tokens)
        table, keys = state.blocks[self.index], self.pool.key_of
        for place in range(start, state.num_published[self.index]):
            block = table[place]
            if block != NULL_BLOCK and keys[block] is not None:
                self.handed.append((block, (place + 1) * self.block_size))
