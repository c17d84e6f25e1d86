"""A piece of a cached prefix, and the windows of its tokens, in two memories."""

from __future__ import annotations

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.hicache.beside import BESIDE_MARKS, BesideNode
from kvplan.engine.sglang_windows.node import WindowNode


class HostedWindowNode(BesideNode, WindowNode):
    """Tokens and their windows.

    While these are on the device, ``window_tick`` and ``window_ticket`` are of the order there, else of that
    in the host.

    Attributes:
        written_from, loaded_from: where the windows begin that a copy of this node and a load up to it hold.
    """

    __slots__ = (*BESIDE_MARKS, "loaded_from", "written_from")

    children: dict[BlockKey, HostedWindowNode]  # type: ignore[assignment]
    parent: HostedWindowNode | None

    def __init__(
        self, content: Content, start: int, end: int, parent: WindowNode | None, key: BlockKey, now: float
    ) -> None:
        assert parent is None or isinstance(parent, HostedWindowNode)
        super().__init__(content, start, end, parent, key, now)
        self.written_from = self.loaded_from = 0

    @property
    def beside_on_device(self) -> bool:
        """See the base class."""
        return self.has_window
