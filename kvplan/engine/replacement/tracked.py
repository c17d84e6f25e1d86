"""A segment that remembers what replacement policies ask about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.blocks import Segment

if TYPE_CHECKING:
    from kvplan.engine.prefix_node import Node


class TrackedSegment(Segment):
    """A segment with its history. Times are counts of events of one index, never seconds.

    Attributes:
        created: when it was published.
        released: when it lost its last holder; 0 while it never has.
        uses: requests that used it: the one that computed it and those admitted onto it since. A request
            that is resumed after a preemption is not counted again.
        priority: the most urgent priority (the lowest number) among these requests.
        ticket: its one valid entry in a policy's order; 0 for none.
        part, queued, seen, credit: the policy's own: which of its queues it is in and since when, how many
            of the uses it has taken note of, and what they are still worth.
    """

    __slots__ = ("created", "credit", "part", "priority", "queued", "released", "seen", "ticket", "uses")

    def __init__(self, node: Node, ref: int, created: int = 0, priority: int = 0) -> None:
        super().__init__(node, ref)
        self.created = created
        self.released = 0
        self.uses = 1
        self.priority = priority
        self.ticket = 0
        self.part = 0
        self.queued = 0
        self.seen = 0
        self.credit = 0

    def earlier(self, node: Node) -> TrackedSegment:
        """The first blocks have the same history; their place in an order they must get themselves."""
        top = TrackedSegment(node, self.ref, self.created, self.priority)
        top.released = self.released
        top.uses = self.uses
        top.part = self.part
        top.queued = self.queued
        top.seen = self.seen
        top.credit = self.credit
        top.above = self.above
        self.above = top
        return top

    @property
    def blocks(self) -> int:
        """How many blocks it has now. Only segments that nobody holds are asked."""
        return self.node.end - self.node.start

    @property
    def evictable(self) -> bool:
        """Whether its last block may go: nothing hangs below, or another copy keeps the content."""
        node = self.node
        return not node.children or len(node.copies) > 1
