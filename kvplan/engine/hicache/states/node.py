"""A piece of a cached prefix, and the state behind it, in two memories."""

from __future__ import annotations

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.hicache.beside import BESIDE_MARKS, BesideNode
from kvplan.engine.sglang_states.node import StateNode


class HostedStateNode(BesideNode, StateNode):
    """Tokens and a state."""

    __slots__ = BESIDE_MARKS

    children: dict[BlockKey, HostedStateNode]  # type: ignore[assignment]
    parent: HostedStateNode | None

    def __init__(
        self, content: Content, start: int, end: int, parent: StateNode | None, key: BlockKey, now: float
    ) -> None:
        assert parent is None or isinstance(parent, HostedStateNode)
        super().__init__(content, start, end, parent, key, now)

    @property
    def beside_on_device(self) -> bool:
        """See the base class."""
        return self.state
