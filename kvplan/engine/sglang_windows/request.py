"""A request whose windows slide."""

from __future__ import annotations

from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang_windows.node import WindowNode
from kvplan.traces.request import Request


class WindowRequest(SglangRequest):
    """Counters of one request.

    Attributes:
        slid: windows of its own tokens before this one are given back (``swa_evicted_seqlen``), whole pages.
        held_from: where the windows begin that it holds in the tree.
        branch: how far full attention knew its prefix where windows ended before: this much is cached first,
            so that the next one finds it with windows (``swa_branching_seqlen``); 0: nowhere.
        chunks: prefill batches it was in; joined: the tick with which it began to decode.
    """

    __slots__ = ("branch", "chunks", "held_from", "joined", "slid")

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.joined = 0
        self.start_over()

    def start_over(self) -> None:
        """It has nothing in the pools (any more)."""
        self.slid = self.held_from = self.branch = self.chunks = 0

    @property
    def window_node(self) -> WindowNode:
        """The node it holds."""
        node = self.held.node
        assert isinstance(node, WindowNode)
        return node
