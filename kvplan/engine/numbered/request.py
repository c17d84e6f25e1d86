"""One request whose blocks are numbered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.reference.state import PrefixChain, RequestState

if TYPE_CHECKING:
    from kvplan.engine.prefix_node import Node
    from kvplan.traces.request import Request


class RememberedState(RequestState):
    """One that is asked for the same prefixes over and over."""

    def __init__(self, request: Request, index: int, num_groups: int) -> None:
        super().__init__(request, index, num_groups)
        self._prefixes: dict[int, int] = {}

    def prefix_id(self, chain: PrefixChain, tokens: int) -> int:
        """As the base class."""
        found = self._prefixes.get(tokens)
        if found is None:
            found = self._prefixes[tokens] = super().prefix_id(chain, tokens)
        return found


class NumberedRequest(HybridRequest):
    """Counters as of the fast engine, block tables as of the reference engine.

    Attributes:
        state: the tables, one a group. Of its counters only what tables need is kept up to date.
    """

    __slots__ = ()
    state: RememberedState


class UndraftedRequest(NumberedRequest):
    """One without drafts."""

    __slots__ = ("state",)

    def __init__(self, request: Request, root: Node, groups: int) -> None:
        super().__init__(request, root)
        self.state = RememberedState(request, 0, groups)
