"""A piece of a cached prefix, and the windows of its tokens, in two memories."""

from __future__ import annotations

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.hicache.node import HOST_MARKS, HostedNode
from kvplan.engine.sglang_windows.node import WindowNode


class HostedWindowNode(HostedNode, WindowNode):
    """Tokens and their windows, each on the device, in the host, or in both; windows may be nowhere.

    Windows are on the device only where the tokens are; in the host they may be without them. While they are
    on the device, ``window_tick`` and ``window_ticket`` are of the order there, else of that in the host.

    Attributes:
        window_on_host: whether the host has its windows.
        writing: the node with whose copy to the host something of this one is under way.
        written_from, loaded_from: where the windows begin that a copy of this node and a load up to it hold.
    """

    __slots__ = (*HOST_MARKS, "loaded_from", "window_on_host", "writing", "written_from")

    children: dict[BlockKey, HostedWindowNode]  # type: ignore[assignment]
    parent: HostedWindowNode | None

    def __init__(
        self, content: Content, start: int, end: int, parent: WindowNode | None, key: BlockKey, now: float
    ) -> None:
        assert parent is None or isinstance(parent, HostedWindowNode)
        super().__init__(content, start, end, parent, key, now)
        self.window_on_host = False
        self.writing: HostedWindowNode | None = None
        self.written_from = self.loaded_from = 0
