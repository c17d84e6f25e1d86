"""A piece of a cached prefix that may lie in two memories."""

from __future__ import annotations

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.sglang.prefix_radix import RadixNode


class HostedNode(RadixNode):
    """A node whose tokens are on the device, in the host, or in both; in neither it does not exist.

    What hangs below a node that is not on the device is not on the device either.

    ``ticket`` is not 0 while the node may be evicted: from the device, if it is there and none of its
    children is; from the host, if it is only there and has no children.

    Attributes:
        on_device, on_host: where its tokens are; the root is on the device.
        resident: children on the device.
        loading: under ``write_back``, the last node of a load under way that reads this one's copy.
    """

    __slots__ = ("loading", "on_device", "on_host", "resident")

    children: dict[BlockKey, HostedNode]  # type: ignore[assignment]
    parent: HostedNode | None

    def __init__(
        self, content: Content, start: int, end: int, parent: HostedNode | None, key: BlockKey, now: float
    ) -> None:
        super().__init__(content, start, end, parent, key, now)
        self.on_device = True
        self.on_host = False
        self.resident = 0
        self.loading: HostedNode | None = None

    @property
    def tokens(self) -> int:
        """How many it has."""
        return self.end - self.start
