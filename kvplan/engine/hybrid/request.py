"""One request in an engine with several cache groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.live import LiveRequest

if TYPE_CHECKING:
    from kvplan.engine.hybrid.chunks import ChunkTable
    from kvplan.engine.hybrid.full import FullHolding
    from kvplan.engine.hybrid.sparse import SparseHolding
    from kvplan.engine.prefix_node import Node
    from kvplan.traces.request import Request


class HybridRequest(LiveRequest):
    """Counters of one request, beside those of the base class, whose holdings stay empty.

    Attributes:
        full: what it has in each group of full attention.
        sparse: what it has in each window or state group.
        chunks: what it has in each group of local chunks.
        in_flight: tokens of planned and undelivered steps in which it was not decoding in step.
        joined: tick at which it fell into step.
        publishes: whether it has to publish what fills while it decodes in step; else that follows from its
            progress.
        settled_until: while no more tokens are to be covered, no group takes or gives back a block; 0 where
            nobody has asked.
        published_tokens: tokens whose blocks publication has dealt with, or fewer.
        shared_prefix_boundary: where the last look-up found a prefix that some group had and another had
            not kept; 0 when there was none.
    """

    __slots__ = (
        "chunks", "full", "in_flight", "joined", "published_tokens", "publishes",
        "settled_until", "shared_prefix_boundary", "sparse",
    )  # fmt: skip

    def __init__(self, request: Request, root: Node) -> None:
        super().__init__(request, root)
        self.full: list[FullHolding] = []
        self.sparse: list[SparseHolding] = []
        self.chunks: list[ChunkTable] = []
        self.in_flight = 0
        self.joined = 0
        self.publishes = False
        self.settled_until = 0
        self.published_tokens = 0
        self.shared_prefix_boundary = 0
