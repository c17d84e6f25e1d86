"""Blocks on the device that are still being copied to the host, of requests that are gone.

Nobody holds them, so others may be given them, or find them in the prefix cache. vLLM then waits for the copy
before it launches the step (``jobs_to_flush``), in both cases.
"""

from __future__ import annotations

from kvplan.engine.blocks import BlockPool, Segment
from kvplan.engine.live import LiveRequest
from kvplan.engine.prefix_hash import PrefixIndex
from kvplan.engine.prefix_node import Match, Node


class Fence:
    """What one request that is gone left behind.

    Attributes:
        owner: the request; segments: what stands for its blocks.
        touched: ranges of its blocks that others were given in the step being planned.
    """

    __slots__ = ("owner", "segments", "touched")

    def __init__(self, owner: LiveRequest) -> None:
        self.owner = owner
        self.touched: list[tuple[int, int]] = []
        self.segments: list[Segment] = []

    def meets(self, start: int, end: int) -> bool:
        """Whether others were given one of blocks ``start .. end``."""
        return any(start < last and first < end for first, last in self.touched)


class FencedIndex(PrefixIndex[LiveRequest]):
    """A prefix index that knows whose blocks it gives away.

    Attributes:
        fences: by what stands for the blocks of requests that are gone.
        touched: those of which others were given blocks in the step being planned.
    """

    def __init__(self, block_size: int, pool: BlockPool) -> None:
        super().__init__(block_size, pool)
        self.fences: dict[Segment, list[Fence]] = {}
        self.touched: list[Fence] = []

    def fence(self, request: LiveRequest) -> Fence:
        """The blocks that a request holds, which is about to give them back."""
        fence = Fence(request)
        for segment, first in request.held:
            piece: Segment | None = segment
            while piece is not None:
                self._mark(piece, fence)
                if piece.node.start <= first:
                    break
                piece = piece.above
        return fence

    def lift(self, fence: Fence) -> None:
        """Nothing is copied from these blocks any more."""
        for segment in fence.segments:
            left = [other for other in self.fences.get(segment, ()) if other is not fence]
            if left:
                self.fences[segment] = left
            else:
                self.fences.pop(segment, None)

    def forget_touches(self) -> None:
        """The step is planned."""
        for fence in self.touched:
            fence.touched.clear()
        self.touched.clear()

    def touch_held(self, request: LiveRequest) -> None:
        """A request runs with the blocks that it held before."""
        if self.fences:
            for segment, first in request.held:
                piece: Segment | None = segment
                while piece is not None:
                    self._touch(piece, piece.node.start, piece.node.end)
                    if piece.node.start <= first:
                        break
                    piece = piece.above

    def _mark(self, segment: Segment, fence: Fence) -> None:
        self.fences.setdefault(segment, []).append(fence)
        fence.segments.append(segment)

    def _touch(self, segment: Segment, start: int, end: int) -> None:
        for fence in self.fences.get(segment, ()):
            if not fence.touched:
                self.touched.append(fence)
            fence.touched.append((start, end))

    def hold(self, request: LiveRequest, match: Match) -> None:
        """As the base class; what is found is given away, too."""
        if self.fences:
            for node in match.path:
                self._touch(node.copies[0], node.start, min(self.settle(node), match.blocks))
        super().hold(request, match)

    def evict(self, segment: Segment, most: int) -> int:
        """As the base class."""
        node = segment.node
        if self.fences:
            self._touch(segment, max(node.start, node.end - most), node.end)
        return super().evict(segment, most)

    def split(self, node: Node, keep: int) -> Node:
        """As the base class; both parts are behind the same fences."""
        upper = super().split(node, keep)
        if self.fences:
            for lower, top in zip(node.copies, upper.copies, strict=True):
                for fence in self.fences.get(lower, ()):
                    self._mark(top, fence)
        return upper

    def _absorb(self, piece: Segment, below: Segment) -> None:
        """As the base class; what becomes one is behind the fences of both."""
        for fence in self.fences.pop(piece, ()):
            if fence not in self.fences.get(below, ()):
                self._mark(below, fence)
        super()._absorb(piece, below)
