"""What prefill and decode servers have in common: they go round their loops until something reaches them."""

from __future__ import annotations

from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica


class SglangInstance(SglangReplica):
    """An instance of a pool: others bring it requests, and tell it what happens to them elsewhere.

    Attributes:
        parked: nothing runs and nothing fits, until something reaches it.
    """

    def __init__(self, config: SglangConfig, latency: LatencyModel, recorder: Recorder) -> None:
        super().__init__(config, latency, recorder)
        self.parked = False

    @property
    def works(self) -> bool:
        """Whether another round may do something."""
        return not self.parked and self.scheduler.has_requests

    @property
    def computes(self) -> bool:
        """Whether its device has something to do, now or with the next step."""
        return bool(self.scheduler.decoding.count or self.scheduler.last)

    def catch_up(self, now: float) -> None:
        """Bring it to ``now``, when something reaches it. ``next_s`` must not be before that."""
        while self.works and self.clock < now:
            self.advance(now)
        self.parked = self._stalled = False
        if self.clock < now:
            self.clock = now

    def some_request(self) -> str:
        """The id of a request that is not finished."""
        awaited = self.scheduler.awaits
        assert awaited is not None
        return awaited.request.id

    def _wait(self, clock: float, until: float) -> float:
        """See the base class: until something reaches it, which nobody here knows."""
        self.parked = self.stopped = True
        return clock
