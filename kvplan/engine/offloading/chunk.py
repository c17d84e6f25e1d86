"""What is stored: chunks, in runs along the contents of requests. Equal prefixes have the same chunks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.offloading.spans import Span
from kvplan.engine.runs import ContentRun, RunTree

if TYPE_CHECKING:
    from kvplan.engine.offloading.turn import Turn

ABSENT, PENDING, IDLE = -2, -1, 0
"""``ChunkRun.readers`` of chunks that are not there, are being written, and may go."""


class ChunkRun(ContentRun):
    """Chunks ``start .. end`` along a content.

    Attributes:
        readers: how many loads read them, or one of the constants above.
        turn: where they stand in the order in which chunks go, or are remembered after they went.
    """

    __slots__ = ("readers", "turn")

    def __init__(
        self, content: Content, start: int, end: int, parent: ChunkRun | None, key: BlockKey
    ) -> None:
        super().__init__(content, start, end, parent, key)
        self.readers = ABSENT
        self.turn: Turn | None = None

    @property
    def anywhere(self) -> bool:
        """Whether it is there or remembered."""
        return self.turn is not None


class ChunkTree(RunTree[ChunkRun]):
    """All chunks that are in the host, or remembered. Runs are alike that go in one turn."""

    def make(
        self, content: Content, start: int, end: int, parent: ChunkRun | None, key: BlockKey
    ) -> ChunkRun:
        """See ``RunTree``."""
        return ChunkRun(content, start, end, parent, key)

    def part(self, upper: ChunkRun, lower: ChunkRun) -> None:
        """See ``RunTree``."""
        upper.readers = lower.readers
        if lower.turn is not None:
            lower.turn.part(upper, lower)

    def alike(self, upper: ChunkRun, lower: ChunkRun) -> bool:
        """See ``RunTree``."""
        return upper.turn is lower.turn and upper.readers == lower.readers

    def leave(self, upper: ChunkRun, lower: ChunkRun) -> None:
        """See ``RunTree``."""
        if upper.turn is not None:
            upper.turn.runs.remove(upper)
            upper.turn = None

    def runs(self, content: Content, spans: Iterable[Span]) -> list[ChunkRun]:
        """What the tree knows of these chunks, cut to fit."""
        return [run for start, end in spans for run in self.known(content, start, end)]

    def settle(self, runs: list[ChunkRun]) -> None:
        """Join runs along one content, of which something has changed, with each other and those beside."""
        if runs:
            above = runs[0].parent
            assert above is not None
            self.join([*([above] if above is not self.root else ()), *runs, *runs[-1].children.values()])

    def first_to_go(self, run: ChunkRun, chunks: int) -> ChunkRun:
        """That part of a run which so many chunks of it are that go first."""
        if chunks == run.blocks:
            return run
        assert run.turn is not None
        if run.turn.backwards:
            self.split(run, run.blocks - chunks)
            return run
        return self.split(run, chunks)
