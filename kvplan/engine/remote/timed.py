"""How an engine on which something ends at known times goes on: it stops at each of these *timers*.

A step that is running is not interrupted.
"""

from __future__ import annotations

from kvplan.engine.remote.source import UNKNOWN


class Timed:
    """For one scheduler or for ranks in step."""

    clock: float
    stopped: bool

    @property
    def next_timer(self) -> float:
        """When the next timer ends; infinite without any."""
        raise NotImplementedError

    def ring(self, until: float) -> None:
        """Do what timers that end by ``until`` were set for."""
        raise NotImplementedError

    def compute(self, until: float) -> None:
        """Go on with steps until the clock is at ``until`` or later, or no step is due."""
        raise NotImplementedError

    def notices_idle(self) -> bool:
        """Whether nothing can be computed and something has come; it is known then."""
        raise NotImplementedError

    def gives_up_idle(self, until: float) -> bool:
        """Whether clients give up before ``until`` while nothing but loads goes on; they are gone then."""
        raise NotImplementedError

    def advance_by_timers(self, until: float) -> None:
        """``advance`` of such an engine, stopping at every timer up to and including ``until``.

        Where nothing can be done before ``until``, the clock is at ``until`` afterwards (unless that is
        infinite).
        """
        while True:
            due = self.next_timer
            self.compute(due if due < until else until)
            if not self.stopped and self.clock < until and self.notices_idle():
                continue
            # The next timer may be one that began just now, also for whoever gives up meanwhile.
            gave_up = not self.stopped and self.gives_up_idle(min(self.next_timer, until))
            if self.stopped:
                return
            if gave_up:
                continue
            if self.next_timer == UNKNOWN or self.next_timer > until:
                break
            if self.next_timer > self.clock:
                if self.next_timer < due:
                    continue
                self.clock = due  # idle until then
            self.ring(min(self.clock, until))
        if self.clock < until < UNKNOWN:
            self.clock = until
