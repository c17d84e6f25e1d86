"""Drafts above SGLang's pools of tokens and recurrent states.

The states that verification computes on its way lie apart, a set for each request that may run, so a request
has as many slots as without drafts. What differs is when a state is kept: a verification that passes a
multiple of the interval leaves the state there in a spare slot. If that is beyond the last token that counts,
the one before goes into the tree, from the other spare slot; where there is none, nothing does. A tree with
states knows no token by the one behind it.
"""

from __future__ import annotations

from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang_states.index import StateIndex
from kvplan.engine.sglang_states.pool import StatePool
from kvplan.engine.sglang_states.replica import StateReplica
from kvplan.engine.sglang_states.request import StateRequest
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.scheduler import StateScheduler
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.sglang.pool import DRAFT_SLOTS, DraftedPool
from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica
from kvplan.engine.speculation.sglang.request import DRAFT_COUNTERS, DraftedRequest
from kvplan.engine.speculation.sglang.scheduler import DraftedSglangScheduler
from kvplan.traces.request import Request


class DraftedStateRequest(DraftedRequest, StateRequest):
    """Counters of one request; ``tracked`` is the last place where it kept a state in a spare slot.

    Attributes:
        tracked_before: the place before that; 0: none that is known.
    """

    __slots__ = (*DRAFT_COUNTERS, "tracked_before")

    def __init__(self, request: Request, key: int) -> None:
        super().__init__(request, key)
        self.tracked_before = 0


class DraftedStatePool(DraftedPool, StatePool):
    """Tokens and states of one engine instance whose requests have drafts."""

    __slots__ = DRAFT_SLOTS

    def __init__(self, config: SglangConfig, rules: StateRules, index: StateIndex | None = None) -> None:
        super().__init__(config, rules, index)
        self.begin(0)

    def stood(self, request: DraftedRequest, tokens: int) -> None:
        """As the base class (``_mamba_check_track_boundary``)."""
        assert isinstance(request, DraftedStateRequest)
        track, computed = self.track, request.prompt_tokens + request.outputs - 1
        if computed // track > (computed - tokens) // track:
            request.tracked_before = request.tracked
            request.tracked = computed // track * track

    def release(self, request: SglangRequest) -> None:
        """As the base class. A request's own state is of no use if it is beyond the last token that counts
        (``_mamba_can_cache_finished_req``)."""
        beyond = request.computed > request.prompt_tokens + request.max_new_tokens
        if beyond and not self.spare and not request.aborted:
            self.drop(request)
        else:
            super().release(request)

    def _kept(self, request: StateRequest) -> int:
        """As the base class (``_select_finished_checkpoint``)."""
        assert isinstance(request, DraftedStateRequest)
        if request.tracked <= request.computed:
            return request.tracked
        return request.tracked_before if self.spares > 1 else 0


class DraftedStateScheduler(DraftedSglangScheduler, StateScheduler):
    """Above both pools."""

    request_type = DraftedStateRequest
    pool: DraftedStatePool


class DraftedStateReplica(DraftedSglangReplica, StateReplica):
    """A replica that verifies drafts, with slots for states beside its tokens.

    Args:
        config, latency, recorder, rules, acceptance: as of ``DraftedSglangReplica``.
        states: of its states.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, *, rules: DraftRules,
        acceptance: Acceptance, states: StateRules,
    ) -> None:  # fmt: skip
        self.rules, self.acceptance = rules, acceptance
        StateReplica.__init__(self, config, latency, recorder, states)

    def make_scheduler(self) -> DraftedStateScheduler:
        """Above both pools."""
        pool = DraftedStatePool(self.config, self.state_rules)
        made = DraftedStateScheduler(
            self.config, self.rules, self.acceptance, pool, keep_schedule=self.logging
        )
        self.drafting = self.states = made
        return made
