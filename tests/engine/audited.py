"""A fast engine that checks its books after every step; a helper of tests."""

from __future__ import annotations

from kvplan.engine.blocks import Segment
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Node
from kvplan.engine.replica import Replica


class Audited(Replica):
    """Checks its books before every delivery."""

    def deliver(self, plan: StepPlan, clock: float) -> None:
        self.audit()
        super().deliver(plan, clock)
        self.audit()

    def audit(self) -> None:
        index, pool, steady = self.scheduler.index, self.scheduler.pool, self.scheduler.steady
        queue = self._queue()
        segments = list(self._segments(index.root))
        free = [segment for segment in segments if segment.ref == 0]
        assert set(map(id, free)) == set(map(id, queue))
        length = {id(segment): self._length(segment.node) for segment in segments}
        assert sum(length[id(segment)] for segment in queue) == pool.cached
        held_published = sum(length[id(segment)] for segment in segments if segment.ref)
        own = sum(self._blocks(request) - self._in_tree(request) for request in self._holders())
        # free (blank and cached) + referenced (published or not yet) == total
        assert pool.blank + pool.cached + held_published + own == pool.usable
        assert pool.blank >= 0
        held: dict[int, int] = {}
        for request in self._holders():
            for segment, first in request.held:
                piece: Segment | None = segment
                while piece is not None:
                    held[id(piece)] = held.get(id(piece), 0) + 1
                    if piece.node.start <= first:
                        break
                    piece = piece.above
        assert {id(segment): segment.ref for segment in segments if segment.ref} == held
        self._no_gaps(queue)
        assert sum(steady.boundaries) == steady.count == len(steady.members)
        assert steady.base_sum == sum(request.base for request in steady.members)

    def _holders(self) -> list[LiveRequest]:
        """Requests that hold blocks."""
        return list(self.scheduler.running)

    def _queue(self) -> list[Segment]:
        found, segment, before = [], self.scheduler.pool.head, None
        while segment is not None:
            assert segment.before is before
            found.append(segment)
            before, segment = segment, segment.after
        assert self.scheduler.pool.tail is before
        return found

    def _segments(self, node: Node):  # type: ignore[no-untyped-def]
        for key, child in node.children.items():
            assert child.parent is node
            assert child.key == key
            assert child.start == self._end(node)
            assert child.copies
            assert all(segment.node is child for segment in child.copies)
            yield from child.copies
            yield from self._segments(child)

    def _end(self, node: Node) -> int:
        return node.end if node.owner is None else node.owner.published_blocks()

    def _length(self, node: Node) -> int:
        length = self._end(node) - node.start
        assert length >= 1
        return length

    def _in_tree(self, request) -> int:  # type: ignore[no-untyped-def]
        return request.published_blocks() if request.tail.owner is request else request.in_tree

    def _blocks(self, request) -> int:  # type: ignore[no-untyped-def]
        if request.steady is None:
            return request.blocks
        return -(-(request.base + request.steady.tick) // request.steady.block_size)

    def _no_gaps(self, queue: list[Segment]) -> None:
        position = {id(segment): place for place, segment in enumerate(queue)}
        for segment in queue:
            self._parent_outlives(segment, position)

    def _parent_outlives(self, segment: Segment, position: dict[int, int]) -> None:
        parent = segment.node.parent
        assert parent is not None
        if parent is not self.scheduler.index.root:
            assert any(copy.ref or position[id(copy)] > position[id(segment)] for copy in parent.copies), (
                "a cached block would outlive every copy of its prefix"
            )
