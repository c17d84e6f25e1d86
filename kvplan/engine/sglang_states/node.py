"""A piece of a prefix at whose end a recurrent state may be kept."""

from __future__ import annotations

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.sglang.prefix_radix import RadixNode


class StateNode(RadixNode):
    """Tokens of one segment, and the state behind the last of them.

    The state belongs to the end of the segment, so whoever cuts it leaves the state with the lower part. The
    root has the empty state, which takes no slot.

    Attributes:
        state: whether the state is there.
        state_lock: requests that hold it; the tokens are held along the whole path, the state only here.
        used: logical time at which it was put here or found last.
        state_ticket: not 0 while the state may be evicted.
    """

    __slots__ = ("state", "state_lock", "state_ticket", "used")

    children: dict[BlockKey, StateNode]  # type: ignore[assignment]
    parent: StateNode | None

    def __init__(
        self, content: Content, start: int, end: int, parent: StateNode | None, key: BlockKey, now: float
    ) -> None:
        super().__init__(content, start, end, parent, key, now)
        self.state = parent is None
        self.state_lock = 0
        self.used = now
        self.state_ticket = 0
