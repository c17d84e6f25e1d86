"""A request of SGLang's that has recurrent states."""

from __future__ import annotations

from kvplan.engine.sglang.live import SglangRequest
from kvplan.traces.request import Request


class StateRequest(SglangRequest):
    """Counters of one request.

    Attributes:
        slots: of the state pool that it has: its own state, and spare ones.
        tracked: tokens behind which the prefill under way keeps a state; 0: nowhere.
        branch: the last place among the tokens that the tree had at which prefill could keep a state
            (``mamba_branching_seqlen``).
        prefilled: tokens with KV when the last prefill step is done.
        unsettled: of the tokens it has computed when it is given up, those whose step is still in flight.
    """

    __slots__ = ("branch", "prefilled", "slots", "tracked", "unsettled")

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.slots = self.tracked = self.branch = self.prefilled = self.unsettled = 0
