"""Host memory below SGLang's prefill servers (``--enable-hierarchical-cache``, 0.5.23).

What was computed goes on in the host as on one engine. What a batch loads arrives while it runs, so nothing
of its requests is sent before they are computed. Of a request that was let in with tokens in the host, loaded
or not, that many fewer than it has are sent ahead of its other chunks (``maybe_send_cached_prefix_chunk``).

A server without room for anybody looks again when a copy has arrived, which lets go of what it held.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.disaggregation.sglang.prefill import PrefillEvents, PrefillReplica, PrefillScheduler
from kvplan.engine.disaggregation.sglang.transit import HANDED_COUNTERS, HandedRequest
from kvplan.engine.hicache.index import HierarchicalIndex
from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.hicache.scheduler import HierarchicalScheduler
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.found import Found
from kvplan.engine.sglang.live import MIXED_IN, SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.pool import TokenPool

HOSTED_COUNTERS = (*HANDED_COUNTERS, "below")
"""Attributes of a ``HostedHandedRequest``, for the classes that mix it in."""


class HostedHandedRequest(HandedRequest):
    """One of a prefill server with host memory. Mixed into one.

    Attributes:
        below: tokens that only the host had of it when it was let in.
    """

    __slots__ = MIXED_IN

    below: int


class HostedHandedSglangRequest(HostedHandedRequest):
    """One whose layers all keep their context."""

    __slots__ = HOSTED_COUNTERS


class HostedPrefillScheduler(HierarchicalScheduler, PrefillScheduler):
    """Above a cache that goes on in the host."""

    request_type: type[SglangRequest] = HostedHandedSglangRequest

    def _admit(self, request: SglangRequest, found: Found[HostedNode], cached: int, extend: int) -> None:
        """As the base class."""
        cast(HostedHandedRequest, request).below = found.below
        super()._admit(request, found, cached, extend)


class HostedPrefillReplica(HierarchicalReplica, PrefillReplica):
    """One instance of a prefill pool whose radix cache goes on in the host.

    Args:
        config, latency, recorder, events: as of ``PrefillReplica``.
        index: the cache, empty.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, events: PrefillEvents,
        index: HierarchicalIndex,
    ) -> None:  # fmt: skip
        self.index, self.copies = index, index.copies
        PrefillReplica.__init__(self, config, latency, recorder, events)

    def make_scheduler(self) -> HostedPrefillScheduler:
        """Above both memories."""
        pool = TokenPool(self.config, self.index)
        made = HostedPrefillScheduler(self.config, pool, keep_schedule=self.logging)
        self.prefill = self.hierarchical = made
        return made

    def _wait(self, clock: float, until: float) -> float:
        """See the base classes: until something reaches it, or the next copy has arrived."""
        self.copies.now = clock
        self.park(self.copies.next_s)
        return clock

    def begins(self, plan: SglangPlan, start: float) -> None:
        """As the base class, of what was on the device before."""
        if self.copies.loaded_s:
            return
        for request in plan.extends:
            resident = request.prefix - cast(HostedHandedRequest, request).below
            if resident > 0:
                self._computed(request, resident, start)
