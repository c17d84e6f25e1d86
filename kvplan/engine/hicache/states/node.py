"""A piece of a cached prefix, and the state behind it, in two memories."""

from __future__ import annotations

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.hicache.node import HOST_MARKS, HostedNode
from kvplan.engine.sglang_states.node import StateNode


class HostedStateNode(HostedNode, StateNode):
    """Tokens and a state, each on the device, in the host, or in both; the state may be nowhere.

    The state is on the device only where the tokens are.

    Attributes:
        state_on_host: whether the host has the state.
        writing: the node with whose copy to the host this one's is under way.
    """

    __slots__ = (*HOST_MARKS, "state_on_host", "writing")

    children: dict[BlockKey, HostedStateNode]  # type: ignore[assignment]
    parent: HostedStateNode | None

    def __init__(
        self, content: Content, start: int, end: int, parent: StateNode | None, key: BlockKey, now: float
    ) -> None:
        assert parent is None or isinstance(parent, HostedStateNode)
        super().__init__(content, start, end, parent, key, now)
        self.state_on_host = False
        self.writing: HostedStateNode | None = None
