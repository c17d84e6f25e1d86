"""A piece of a cached prefix whose windows may be gone."""

from __future__ import annotations

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.sglang.prefix_radix import RadixNode


class WindowNode(RadixNode):
    """A node whose tokens are in the full pool, and in the window pool, too, or no longer (a tombstone).

    Attributes:
        has_window: whether its tokens are in the window pool.
        window_locks: requests whose window reaches it. Whoever holds its window holds the node.
        window_tick: when its window was used last; of nodes used together the deeper is the more recent.
        window_ticket: not 0 while its window may be evicted.
    """

    __slots__ = ("has_window", "window_locks", "window_tick", "window_ticket")

    children: dict[BlockKey, WindowNode]  # type: ignore[assignment]
    parent: WindowNode | None

    def __init__(
        self, content: Content, start: int, end: int, parent: WindowNode | None, key: BlockKey, now: float
    ) -> None:
        super().__init__(content, start, end, parent, key, now)
        self.has_window = False
        self.window_locks = 0
        self.window_tick = 0
        self.window_ticket = 0

    @property
    def tokens(self) -> int:
        """How many it has."""
        return self.end - self.start
