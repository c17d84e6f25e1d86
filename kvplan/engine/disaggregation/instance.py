"""What instances of vLLM's pools have in common: they stand still until something reaches them."""

from __future__ import annotations

from math import inf

from kvplan.engine.replica import Replica
from kvplan.traces.request import Request


class Instance:
    """An engine of a pool as others meet it: one scheduler, or ranks in step."""

    clock: float

    @property
    def works(self) -> bool:
        """Whether somebody runs, or waits and may be let in."""
        raise NotImplementedError

    @property
    def ends_s(self) -> float:
        """When the first step in flight ends; infinite without one."""
        raise NotImplementedError

    def wait_until(self, now: float) -> None:
        """Let the time pass in which it computes nothing."""
        if self.clock < now and self.ends_s == inf:
            self.clock = now


class PoolReplica(Replica):
    """One scheduler of a pool: what comes to it the engine has looked at."""

    def refusal(self, request: Request) -> str | None:
        """Why it could never serve a request, or ``None``."""
        return super().rejection(request)

    def rejection(self, request: Request) -> str | None:
        """Nothing comes here that the engine has not looked at."""
        return None
