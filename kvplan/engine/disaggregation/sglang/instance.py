"""What prefill and decode servers have in common: they go round their loops until something reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.traces.request import Request


class Server:
    """What stands still until something reaches it; for an engine that is one, too.

    Attributes:
        parked: nothing runs and nothing fits, until something reaches it.
        wakes_s: when a parked one goes on by itself.
    """

    clock: float
    stopped: bool
    parked = False
    wakes_s = float("inf")
    _stalled: bool

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        raise NotImplementedError

    @property
    def noticeable(self) -> bool:
        """Whether others may notice something of what it does next."""
        raise NotImplementedError

    def advance(self, until: float) -> None:
        """See ``Actor``."""
        raise NotImplementedError

    @property
    def works(self) -> bool:
        """Whether another round may do something."""
        return not self.parked and self.busy

    @property
    def next_s(self) -> float:
        """See ``Actor``."""
        if self.parked and self.busy:
            return self.wakes_s
        return self.clock if self.works and self.noticeable else float("inf")

    def park(self, wakes_s: float = float("inf")) -> None:
        """Stand still until something reaches it, or until then."""
        self.parked = self.stopped = True
        self.wakes_s = wakes_s

    def wake_by(self, until: float) -> None:
        """A parked one goes on when it wakes, if that is before ``until``."""
        if self.parked and self.wakes_s < until:
            self.parked = False
            self.clock = self.wakes_s

    def catch_up(self, now: float) -> None:
        """Bring it to ``now``, when something reaches it. ``next_s`` must not be before that."""
        while self.works and self.clock < now:
            self.advance(now)
        self.parked = self._stalled = False
        if self.clock < now:
            self.clock = now


class SglangInstance(SglangReplica, Server):
    """An instance of a pool, or a rank of one: others bring it requests, and tell it what happens to them
    elsewhere."""

    @property
    def noticeable(self) -> bool:
        """See the base class."""
        return True

    def refusal(self, request: Request) -> str | None:
        """Why it could never serve a request, or ``None``."""
        raise NotImplementedError

    def advance(self, until: float) -> None:
        """See ``Actor``; a parked one goes on when it wakes."""
        self.wake_by(until)
        super().advance(until)

    @property
    def members(self) -> Sequence[Self]:
        """Whoever has requests: itself alone."""
        return (self,)

    def deal(self, request: Request) -> int:
        """Which of its members gets a request."""
        return 0

    @property
    def computes(self) -> bool:
        """Whether its device has something to do, now or with the next step."""
        return bool(self.scheduler.decoding.count or self.scheduler.last)

    def some_request(self) -> str:
        """The id of a request that is not finished."""
        awaited = self.scheduler.awaits
        assert awaited is not None
        return awaited.request.id

    def make_batch(self, clock: float) -> SglangPlan:
        """The next batch, as of a rank of several that run together."""
        self.stopped = False
        return self._plan(clock)[0]

    def begins(self, plan: SglangPlan, start: float) -> None:
        """The device begins with a batch."""

    def _launch(self, plan: SglangPlan, start: float) -> float:
        """See the base class."""
        self.begins(plan, start)
        return super()._launch(plan, start)

    def _wait(self, clock: float, until: float) -> float:
        """See the base class: until something reaches it, which nobody here knows."""
        self.park()
        return clock
