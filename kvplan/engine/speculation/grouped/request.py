"""A request with drafts whose blocks are numbered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.numbered.request import NumberedRequest, RememberedState
from kvplan.engine.speculation.request import DraftedRequest

if TYPE_CHECKING:
    from kvplan.engine.prefix_node import Node
    from kvplan.traces.request import Request


class DraftedState(RememberedState):
    """Tables of a request with drafts.

    Attributes:
        reach: tokens that the step being planned computes it to: no state is kept for places behind them.
        begun: groups of states that have given it one to run on.
    """

    def __init__(self, request: Request, index: int, num_groups: int) -> None:
        super().__init__(request, index, num_groups)
        self.reach = 0
        self.begun: set[int] = set()


class NumberedDraftedRequest(DraftedRequest, NumberedRequest):
    """Counters as of ``DraftedRequest``, tables as of ``NumberedRequest``."""

    __slots__ = ("state",)
    state: DraftedState

    def __init__(self, request: Request, root: Node, key: int, groups: int) -> None:
        super().__init__(request, root, key)
        self.state = DraftedState(request, 0, groups)
