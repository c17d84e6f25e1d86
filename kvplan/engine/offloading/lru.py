"""Least recently used first, as vLLM ranks uses.

All chunks of a request go in one turn as long as it goes on, which begins with its first use: the end of a
prompt goes before its beginning. Whoever comes later outranks it. When the request ends, its chunks get a new
turn, as used at that time.
"""

from __future__ import annotations

from collections.abc import Collection

from kvplan.engine.offloading.chunk import ABSENT, ChunkRun, ChunkTree
from kvplan.engine.offloading.spans import Span
from kvplan.engine.offloading.turn import Row, Turn
from kvplan.engine.offloading.use import Use


class Lru:
    """See ``order.Order``.

    Attributes:
        row: chunks that are there.
    """

    def __init__(self, tree: ChunkTree) -> None:
        self.tree = tree
        self.row = Row()

    def _turn(self, use: Use) -> Turn:
        if use.turn is None:
            use.turn = self.row.begin(open=True)
        return use.turn

    def missed(self, use: Use, spans: list[Span]) -> None:
        """Nothing is remembered of what is not there."""

    def met(self, use: Use, spans: list[Span]) -> None:
        """See ``Order``; what goes later keeps its turn."""
        turn = self._turn(use)
        for run in self.tree.runs(use.content, spans):
            if run.turn is not None and run.turn.number < turn.number:
                self.row.put(run, turn)

    def insert(self, use: Use, runs: list[ChunkRun]) -> None:
        """See ``Order``."""
        turn = self._turn(use)
        for run in runs:
            self.row.put(run, turn)

    def ended(self, use: Use) -> None:
        """See ``Order``."""
        there = [run for run in self.tree.runs(use.content, use.met.spans) if run.turn is not None]
        self.row.append(there)
        self.tree.settle(there)
        if use.turn is not None:
            use.turn.close()

    def evict(self, chunks: int, keep: Collection[ChunkRun]) -> bool:
        """See ``Order``."""
        going = self.row.first(chunks, keep)
        if sum(part for _, part in going) < chunks:
            return False
        for run, part in going:
            piece = self.tree.first_to_go(run, part)
            self.row.take(piece)
            piece.readers = ABSENT
            self.tree.prune(piece)
        return True
