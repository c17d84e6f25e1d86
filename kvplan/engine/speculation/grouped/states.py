"""Recurrent states of requests with drafts, in numbered blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from kvplan.engine.config import CacheGroup
from kvplan.engine.offloading.grouped.states import HandedStates
from kvplan.engine.reference.groups import Shared
from kvplan.engine.reference.pool import NULL_BLOCK
from kvplan.engine.reference.recurrent import BoundaryStates, RunningState
from kvplan.engine.reference.state import RequestState
from kvplan.engine.speculation.grouped.request import DraftedState


class DraftedStates(BoundaryStates):
    """Behind the running state as many as a step has drafts, at the end of the table (``MambaManager``).

    Where the table grows past them they move on, and their entries are empty.
    """

    def __init__(self, index: int, group: CacheGroup, shared: Shared, drafts: int) -> None:
        super().__init__(index, group, shared)
        self.drafts = drafts

    def _entries(self, state: RequestState) -> int:
        """Length of a table whose running state is that of the step being planned."""
        return -(-cast(DraftedState, state).reach // self.block_size) + self.drafts

    def need(
        self, state: RequestState, tokens: int, hit: Sequence[int], computed: int, *, admission: bool
    ) -> int:
        """As the base class; the first blocks are one and those of the drafts.

        Asked about all known tokens of who has places for drafts beyond them, vLLM says less than none.
        """
        if hit and self.is_fresh(hit[-1]):
            return self.pool.num_blocks + 1
        table = state.blocks[self.index]
        missing = self._entries(state) - len(hit) - len(table)
        if not admission:
            missing = max(missing, 0)
        begun = self.index in cast(DraftedState, state).begun
        return min(missing, 1 if begun else 1 + self.drafts) + self.unheld(hit)

    def grow(self, state: RequestState, tokens: int) -> None:
        """As the base class; what drafts have moves to the end."""
        begun, table = cast(DraftedState, state).begun, state.blocks[self.index]
        entries, before = self._entries(state), len(table)
        running = entries - self.drafts - 1
        if entries > before:
            table.extend([NULL_BLOCK] * (running - before))
            if self.index in begun:
                for place in range(before - self.drafts, min(before, running)):
                    table.append(table[place])
                    table[place] = NULL_BLOCK
            table.extend(self.pool.take(max(entries - len(table), 0)))
        begun.add(self.index)

    def settled_until(self, state: RequestState, processed: int) -> int:
        """Every step is asked for anew."""
        return 0

    def release(self, state: RequestState) -> None:
        """As the base class."""
        super().release(state)
        cast(DraftedState, state).begun.discard(self.index)


class HandedDraftedStates(DraftedStates, HandedStates):
    """The same above a host that they are handed to."""


class DraftedRunningState(RunningState):
    """Without a prefix cache: one state, and one for every draft."""

    def __init__(self, index: int, group: CacheGroup, shared: Shared, drafts: int) -> None:
        super().__init__(index, group, shared)
        self.drafts = drafts

    def need(
        self, state: RequestState, tokens: int, hit: Sequence[int], computed: int, *, admission: bool
    ) -> int:
        """As the base class, of all of them; places beyond the longest sequence count as another state."""
        del hit, computed, admission
        wanted = -(-tokens // self.config.max_model_len) + self.drafts
        return max(wanted - len(state.blocks[self.index]), 0)

    def grow(self, state: RequestState, tokens: int) -> None:
        """As the base class, of all of them."""
        if not state.blocks[self.index]:
            state.blocks[self.index] = self.pool.take(1 + self.drafts)
