"""A piece of a cached prefix that may lie in two memories."""

from __future__ import annotations

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.sglang.prefix_radix import RadixNode

MIXED_IN: tuple[str, ...] = ()
"""Slots of a class that is mixed into others: none, as only one base of a class may have some."""
HOST_MARKS = ("loading", "on_device", "on_host", "pinned", "pinned_from", "resident")
"""Attributes of a ``HostedNode``, for the classes that mix it in."""


class HostedNode(RadixNode):
    """A node whose tokens are on the device, in the host, or in both; in neither it does not exist.

    Mixed into a node that has these marks.

    What hangs below a node that is not on the device is not on the device either.

    ``ticket`` is not 0 while the node may be evicted: from the device, if it is there and none of its
    children is; from the host, if it is only there and has no children.

    Attributes:
        on_device, on_host: where its tokens are; the root is on the device.
        resident: children on the device.
        pinned: how many loads read something that goes with its tokens' copy in the host, which stays.
        pinned_from: where the tokens begin that are pinned with what a load reads at this node's end; -1:
            none does.
        loading: under ``write_back``, the last node of a load under way that reads this one's copy.
    """

    __slots__ = MIXED_IN

    children: dict[BlockKey, HostedNode]  # type: ignore[assignment]
    parent: HostedNode | None
    loading: HostedNode | None
    on_device: bool
    on_host: bool
    pinned: int
    pinned_from: int
    resident: int

    def __init__(
        self, content: Content, start: int, end: int, parent: HostedNode | None, key: BlockKey, now: float
    ) -> None:
        super().__init__(content, start, end, parent, key, now)
        self.on_device = True
        self.on_host = False
        self.pinned = self.resident = 0
        self.pinned_from = -1
        self.loading = None

    @property
    def tokens(self) -> int:
        """How many it has."""
        return self.end - self.start


class HostedTokens(HostedNode):
    """One that has nothing but tokens."""

    __slots__ = HOST_MARKS
