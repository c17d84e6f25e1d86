"""Contents below the device, in runs of blocks: a tree, as the prefix index of the device is one.

What a subclass of ``ContentRun`` says of a run holds for all of its blocks; where it would differ inside a
run, the run is split. A run may be nowhere: the front of a path whose tail alone is left. Runs that are
nowhere and lead to nothing are removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Self, TypeVar

from kvplan.engine.content import BlockKey, Content

_EMPTY = Content((), ())


class ContentRun:
    """Blocks ``start .. end`` of ``content`` after the parent's."""

    __slots__ = ("children", "content", "end", "key", "parent", "start")

    def __init__(self, content: Content, start: int, end: int, parent: Self | None, key: BlockKey) -> None:
        self.content = content
        self.start = start
        self.end = end
        self.parent = parent
        self.key = key
        self.children: dict[BlockKey, Self] = {}

    @property
    def blocks(self) -> int:
        """How many."""
        return self.end - self.start

    @property
    def anywhere(self) -> bool:
        """Whether there is a reason to keep it."""
        raise NotImplementedError


RunT = TypeVar("RunT", bound=ContentRun)


class RunTree(Generic[RunT]):
    """Runs of blocks of one size; a subclass says what they are, and when two of them are alike.

    Args:
        block_size: tokens of a block.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.root = self.make(_EMPTY, 0, 0, None, 0)

    def make(self, content: Content, start: int, end: int, parent: RunT | None, key: BlockKey) -> RunT:
        """A run that is nowhere."""
        raise NotImplementedError

    def part(self, upper: RunT, lower: RunT) -> None:
        """A run was cut: what holds for ``lower``, which is left of it, holds for its first blocks, too."""
        raise NotImplementedError

    def alike(self, upper: RunT, lower: RunT) -> bool:
        """Whether the same holds for a run and the one below it."""
        raise NotImplementedError

    def leave(self, upper: RunT, lower: RunT) -> None:
        """A run is about to go into the one below it, which is alike."""
        raise NotImplementedError

    def walk(self, content: Content, limit: int) -> Iterator[tuple[RunT, int]]:
        """Runs along the first ``limit`` blocks (which the content must have), each with where it agrees to.

        Only the last one may agree in part.
        """
        size = self.block_size
        run, depth = self.root, 0
        while depth < limit:
            child = run.children.get(content.block_key(depth * size, size))
            if child is None:
                return
            stop = child.end if child.end < limit else limit
            depth = content.agrees_until(child.content, depth * size, stop * size) // size
            yield child, depth
            if depth < child.end:
                return
            run = child

    def known(self, content: Content, start: int, end: int) -> list[RunT]:
        """Runs that make up what the tree knows of blocks ``start .. end``, cut to fit."""
        found = []
        for run, agreed in [step for step in self.walk(content, end) if step[1] > start]:
            piece = run if agreed == run.end else self.split(run, agreed - run.start)
            if piece.start < start:
                self.split(piece, start - piece.start)
            found.append(piece)
        return found

    def cover(self, content: Content, start: int, end: int) -> list[RunT]:
        """Runs that make up blocks ``start .. end`` exactly; those that are missing are made, also before."""
        size = self.block_size
        found = []
        run, depth = self.root, 0
        while depth < end:
            key = content.block_key(depth * size, size)
            child = run.children.get(key)
            if child is None:
                child = self.make(content, depth, start if depth < start else end, run, key)
                run.children[key] = child
            else:
                stop = child.end if child.end < end else end
                agreed = content.agrees_until(child.content, depth * size, stop * size) // size
                if child.start < start < agreed:
                    agreed = start
                if agreed < child.end:
                    child = self.split(child, agreed - child.start)
            depth = child.end
            if child.start >= start:
                found.append(child)
            run = child
        return found

    def split(self, run: RunT, keep: int) -> RunT:
        """Cut a run after ``keep`` blocks; returns the new upper part, ``run`` stays the lower one."""
        cut = run.start + keep
        parent = run.parent
        assert parent is not None
        upper = self.make(run.content, run.start, cut, parent, run.key)
        parent.children[run.key] = upper
        run.parent = upper
        run.start = cut
        run.key = run.content.block_key(cut * self.block_size, self.block_size)
        upper.children[run.key] = run
        self.part(upper, run)
        return upper

    def join(self, runs: list[RunT]) -> None:
        """Make one run of neighbours that are alike."""
        upper: RunT | None = None
        for run in runs:
            if (
                upper is not None
                and run.parent is upper
                and len(upper.children) == 1
                and self.alike(upper, run)
            ):
                self._absorb(upper, run)
            upper = run

    def _absorb(self, upper: RunT, lower: RunT) -> None:
        """``lower`` stays, with the blocks of both."""
        self.leave(upper, lower)
        parent = upper.parent
        assert parent is not None
        lower.start, lower.key, lower.parent = upper.start, upper.key, parent
        parent.children[upper.key] = lower

    def prune(self, run: RunT) -> None:
        """Remove the run, and what leads to it, as far as it is nowhere and leads to nothing."""
        while run.parent is not None and not run.children and not run.anywhere:
            del run.parent.children[run.key]
            run = run.parent
