"""An order of chunks, in turns: chunks along one prompt that stand side by side in it."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Collection

from kvplan.engine.offloading.chunk import IDLE, ChunkRun


class Turn:
    """Runs along one prompt.

    Attributes:
        number: turns of a row are numbered as they begin.
        backwards: whether the end of the prompt goes before its beginning.
        open: whether more may come; it keeps its place while it is empty.
        runs: the beginning of the prompt first.
    """

    __slots__ = ("backwards", "number", "open", "row", "runs")

    def __init__(self, row: Row, number: int, *, backwards: bool, open: bool) -> None:
        self.row = row
        self.number = number
        self.backwards = backwards
        self.open = open
        self.runs: list[ChunkRun] = []

    def part(self, upper: ChunkRun, lower: ChunkRun) -> None:
        """A run of it was cut: the new upper part stands beside it."""
        self.runs.insert(self.runs.index(lower), upper)
        upper.turn = self

    def close(self) -> None:
        """Nothing more comes."""
        self.open = False
        if not self.runs:
            del self.row.turns[self]


class Row:
    """Turns, first to go first.

    Attributes:
        chunks: how many stand in it.
    """

    def __init__(self) -> None:
        self.turns: OrderedDict[Turn, None] = OrderedDict()
        self.chunks = 0
        self._begun = 0

    def begin(self, *, backwards: bool = True, open: bool = False) -> Turn:
        """A turn after all others."""
        self._begun += 1
        turn = Turn(self, self._begun, backwards=backwards, open=open)
        self.turns[turn] = None
        return turn

    def put(self, run: ChunkRun, turn: Turn) -> None:
        """A run goes in this turn from now on."""
        if run.turn is not None:
            run.turn.row.take(run)
        insort(turn.runs, run, key=_start)
        run.turn = turn
        self.chunks += run.blocks

    def append(self, runs: list[ChunkRun], *, backwards: bool = True) -> None:
        """These runs along one prompt go after all others."""
        if runs:
            turn = self.begin(backwards=backwards)
            for run in runs:
                self.put(run, turn)

    def take(self, run: ChunkRun) -> None:
        """A run stands here no more."""
        turn = run.turn
        assert turn is not None
        turn.runs.remove(run)
        run.turn = None
        self.chunks -= run.blocks
        if not turn.runs and not turn.open:
            del self.turns[turn]

    def first(self, chunks: int, keep: Collection[ChunkRun]) -> list[tuple[ChunkRun, int]]:
        """The runs that would go, so many chunks together, or all that may; of the last one maybe a part."""
        found: list[tuple[ChunkRun, int]] = []
        if chunks > 0:
            for turn in self.turns:
                for run in reversed(turn.runs) if turn.backwards else turn.runs:
                    if run.readers == IDLE and run not in keep:
                        part = min(chunks, run.blocks)
                        found.append((run, part))
                        chunks -= part
                        if not chunks:
                            return found
        return found


def _start(run: ChunkRun) -> int:
    return run.start
