"""What instances of vLLM's pools have in common: they stand still until something reaches them."""

from __future__ import annotations

from math import inf


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
