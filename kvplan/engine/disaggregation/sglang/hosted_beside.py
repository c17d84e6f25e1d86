"""Host memory below SGLang's prefill servers for models that keep more than tokens: states, or windows.

What goes to the host and back beside tokens is as on one engine, what is sent elsewhere as without a host.
"""

from __future__ import annotations

from kvplan.engine.disaggregation.sglang.hosted import (
    HOSTED_COUNTERS,
    HostedHandedRequest,
    HostedPrefillReplica,
    HostedPrefillScheduler,
)
from kvplan.engine.disaggregation.sglang.prefill import PrefillEvents
from kvplan.engine.disaggregation.sglang.states import StatePrefillScheduler
from kvplan.engine.disaggregation.sglang.windows import WindowPrefillScheduler
from kvplan.engine.hicache.states.index import HostedStateIndex
from kvplan.engine.hicache.states.replica import HostedStateReplica
from kvplan.engine.hicache.states.scheduler import HostedStateScheduler
from kvplan.engine.hicache.windows.index import HostedWindowIndex
from kvplan.engine.hicache.windows.replica import HostedWindowReplica
from kvplan.engine.hicache.windows.scheduler import HostedWindowScheduler
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.pool import StatePool
from kvplan.engine.sglang_states.request import StateRequest
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_windows.pool import WindowPool
from kvplan.engine.sglang_windows.request import WindowRequest
from kvplan.engine.sglang_windows.windows import SlidingWindows


class HostedStateHandedRequest(StateRequest, HostedHandedRequest):
    """A request with states."""

    __slots__ = HOSTED_COUNTERS


class HostedStatePrefillScheduler(HostedPrefillScheduler, HostedStateScheduler, StatePrefillScheduler):
    """Above tokens and states in two memories."""

    request_type = HostedStateHandedRequest


class HostedStatePrefillReplica(HostedPrefillReplica, HostedStateReplica):
    """One instance of a prefill pool whose tokens and states go on in the host.

    Args:
        config, latency, recorder, events: as of ``PrefillReplica``.
        rules: of its states.
        index: the cache, empty.
    """

    index: HostedStateIndex

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, events: PrefillEvents,
        rules: StateRules, index: HostedStateIndex,
    ) -> None:  # fmt: skip
        self.state_rules = rules
        HostedPrefillReplica.__init__(self, config, latency, recorder, events, index)

    def make_scheduler(self) -> HostedStatePrefillScheduler:
        """Above four pools."""
        pool = StatePool(self.config, self.state_rules, self.index)
        made = HostedStatePrefillScheduler(self.config, pool, keep_schedule=self.logging)
        self.prefill = self.states = self.hierarchical = made
        return made


class HostedWindowHandedRequest(WindowRequest, HostedHandedRequest):
    """A request with windows."""

    __slots__ = HOSTED_COUNTERS


class HostedWindowPrefillScheduler(HostedPrefillScheduler, HostedWindowScheduler, WindowPrefillScheduler):
    """Above tokens and windows in two memories."""

    request_type = HostedWindowHandedRequest


class HostedWindowPrefillReplica(HostedPrefillReplica, HostedWindowReplica):
    """One instance of a prefill pool whose tokens and windows go on in the host.

    Args:
        config, latency, recorder, events: as of ``PrefillReplica``.
        windows: the device's pool for windows.
        index: the cache, empty.
    """

    index: HostedWindowIndex

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, events: PrefillEvents,
        windows: SlidingWindows, index: HostedWindowIndex,
    ) -> None:  # fmt: skip
        self.windows = windows
        self.peak_full = self.peak_windows = 0
        HostedPrefillReplica.__init__(self, config, latency, recorder, events, index)

    def make_scheduler(self) -> HostedWindowPrefillScheduler:
        """Above four pools."""
        pool = WindowPool(self.config, self.windows, self.index)
        made = HostedWindowPrefillScheduler(self.config, pool, keep_schedule=self.logging)
        self.prefill = self.windowed = self.hierarchical = made
        return made
