"""Recurrent states on SGLang's prefill and decode servers.

A prefill server keeps a request's slots until its states have been sent. A decode server has no radix cache,
so a request has one slot there, from when room is made for it; as every row of the request table has one
(``HybridMambaDecodeReqToTokenPool``), nobody waits for a slot.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.engine.disaggregation.sglang.decode import DecodeEvents, DecodeReplica, DecodeScheduler
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.prefill import PrefillEvents, PrefillReplica, PrefillScheduler
from kvplan.engine.disaggregation.sglang.transit import HANDED_COUNTERS, HandedRequest
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang_states.pool import StatePool
from kvplan.engine.sglang_states.replica import StateReplica
from kvplan.engine.sglang_states.request import StateRequest
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.scheduler import StateScheduler


class StateHandedRequest(StateRequest, HandedRequest):
    """A request with states as one of the two servers sees it."""

    __slots__ = HANDED_COUNTERS


class StatePrefillScheduler(PrefillScheduler, StateScheduler):
    """Nobody decodes here; states are kept where prefill ends a step."""

    request_type: type[SglangRequest] = StateHandedRequest

    def __init__(self, config: SglangConfig, pool: StatePool, *, keep_schedule: bool) -> None:
        StateScheduler.__init__(self, config, pool, keep_schedule=keep_schedule)
        self.open_queues()


class StatePrefillReplica(PrefillReplica, StateReplica):
    """One instance of a prefill pool that has slots for states beside its tokens."""

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, events: PrefillEvents,
        rules: StateRules,
    ) -> None:  # fmt: skip
        StateReplica.__init__(self, config, latency, recorder, rules)
        self.events = events

    def make_scheduler(self) -> StatePrefillScheduler:
        """See the base class."""
        pool = StatePool(self.config, self.state_rules)
        made = StatePrefillScheduler(self.config, pool, keep_schedule=self.logging)
        self.prefill = self.states = made
        return made


class StateDecodeScheduler(DecodeScheduler, StateScheduler):
    """Who has room for a prompt has a slot for its states."""

    request_type: type[SglangRequest] = StateHandedRequest
    pool: StatePool

    def __init__(
        self, config: SglangConfig, options: DecodeOptions, pool: StatePool, *, keep_schedule: bool
    ) -> None:
        StateScheduler.__init__(self, config, pool, keep_schedule=keep_schedule)
        self.open_queues(options)

    def _take(self, request: SglangRequest, tokens: int) -> int:
        """As the base class, with a slot."""
        self.pool.provide([request])
        return super()._take(request, tokens)


class StateDecodeReplica(DecodeReplica, StateReplica):
    """One instance of a decode pool that has slots for states beside its tokens, no fewer than rows."""

    def __init__(
        self, config: SglangConfig, options: DecodeOptions, latency: LatencyModel, recorder: Recorder,
        events: DecodeEvents, rules: StateRules,
    ) -> None:  # fmt: skip
        self.options = options
        slots = max(rules.slots, config.max_running_requests + options.extra_slots)
        StateReplica.__init__(self, config, latency, recorder, replace(rules, slots=slots))
        self.events = events

    def make_scheduler(self) -> StateDecodeScheduler:
        """See the base class."""
        pool = StatePool(self.config, self.state_rules)
        made = StateDecodeScheduler(self.config, self.options, pool, keep_schedule=self.logging)
        self.decode = self.states = made
        return made
