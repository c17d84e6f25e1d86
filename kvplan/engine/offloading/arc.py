"""Adaptive replacement (Megiddo and Modha, 2003) as vLLM applies it to chunks.

What was stored once stands in ``recent``, what a later request loaded or would have stored again, in
``frequent``. How much of the cache ``recent`` may keep follows from what was evicted and is wanted again: a
miss on something that left ``recent`` lets it grow, on something that left ``frequent``, shrink. Frequency is
counted when a request ends, once a request.
"""

from __future__ import annotations

from collections.abc import Collection

from kvplan.engine.offloading.chunk import ABSENT, ChunkRun, ChunkTree
from kvplan.engine.offloading.spans import Span
from kvplan.engine.offloading.turn import Row
from kvplan.engine.offloading.use import Use


class Arc:
    """See ``order.Order``.

    Args:
        capacity: chunks of the cache; so many are remembered after they left each of the two rows.

    Attributes:
        share: chunks that ``recent`` may keep, not rounded.
    """

    def __init__(self, capacity: int, tree: ChunkTree) -> None:
        self.capacity = capacity
        self.tree = tree
        self.share = 0.0
        self.recent, self.frequent = Row(), Row()
        self.left_recent, self.left_frequent = Row(), Row()

    def missed(self, use: Use, spans: list[Span]) -> None:
        """See ``Order``; the end of the prompt first."""
        gone, gone_often = self.left_recent, self.left_frequent
        wanted: dict[Row, list[ChunkRun]] = {gone: [], gone_often: []}
        for run in reversed(self.tree.runs(use.content, spans)):
            if run.turn is None:
                continue
            if run.turn.row is gone:
                self._grow(max(1, gone_often.chunks / gone.chunks), run.blocks)
            else:
                self._shrink(max(1, gone.chunks / gone_often.chunks), run.blocks)
            wanted[run.turn.row].append(run)
        for row, runs in wanted.items():
            row.append(runs)

    def _grow(self, step: float, steps: int) -> None:
        """One step a chunk, as their sum may be rounded otherwise."""
        for _ in range(steps):
            self.share = min(self.share + step, self.capacity)
            if self.share == self.capacity:
                break

    def _shrink(self, step: float, steps: int) -> None:
        for _ in range(steps):
            self.share = max(self.share - step, 0)
            if not self.share:
                break

    def met(self, use: Use, spans: list[Span]) -> None:
        """It counts when the request ends."""

    def insert(self, use: Use, runs: list[ChunkRun]) -> None:
        """See ``Order``; the beginning of the prompt stands first."""
        self.recent.append(runs, backwards=False)

    def ended(self, use: Use) -> None:
        """See ``Order``; what the request only stored keeps its row."""
        tree = self.tree
        # Cut where those that were reused, or inserted, begin and end.
        tree.runs(use.content, use.reused.spans)
        tree.runs(use.content, use.inserted.spans)
        met = tree.runs(use.content, use.met.spans)
        once: list[ChunkRun] = []
        often: list[ChunkRun] = []
        for run in met:
            if run.readers == ABSENT or run.turn is None:
                continue
            reused = run.start in use.reused
            if reused or run.start in use.inserted:
                (often if reused or run.turn.row is self.frequent else once).append(run)
        self.recent.append(once)
        self.frequent.append(often)
        tree.settle(met)

    def evict(self, chunks: int, keep: Collection[ChunkRun]) -> bool:
        """See ``Order``."""
        # As long as no less than its share is left, ``recent`` gives; then ``frequent``, as long as it can.
        most = max(0, self.recent.chunks - int(self.share) + 1)
        once = self.recent.first(min(most, chunks), keep)
        often = self.frequent.first(chunks - _chunks(once), keep)
        short = chunks - _chunks(once) - _chunks(often)
        if short:
            once = self.recent.first(chunks - _chunks(often), keep)
            if _chunks(once) + _chunks(often) < chunks:
                return False
        self._leave(once, self.left_recent)
        self._leave(often, self.left_frequent)
        return True

    def _leave(self, going: list[tuple[ChunkRun, int]], gone: Row) -> None:
        """What goes is remembered, and what went longest ago is forgotten."""
        for run, part in going:
            assert run.turn is not None
            backwards = run.turn.backwards
            piece = self.tree.first_to_go(run, part)
            piece.readers = ABSENT
            gone.append([piece], backwards=backwards)
        while gone.chunks > self.capacity:
            turn = next(iter(gone.turns))
            run = turn.runs[-1 if turn.backwards else 0]
            piece = self.tree.first_to_go(run, min(gone.chunks - self.capacity, run.blocks))
            gone.take(piece)
            self.tree.prune(piece)


def _chunks(going: list[tuple[ChunkRun, int]]) -> int:
    return sum(part for _, part in going)
