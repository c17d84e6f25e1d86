"""An engine instance whose requests may wait for KV from elsewhere: loads begin and end on its clock.

Whatever ends at a known time is a *timer*. ``advance`` stops at each of them, so that the first
``schedule()`` call at or after that time sees what has come. A step that is running is not interrupted.

Not simulated: vLLM's workers look for what has come when they launch a step, and tell it with that step's
output. A busy engine hears of it one step later than here, two with overlapping steps; an idle one at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count
from math import nextafter
from typing import TYPE_CHECKING

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.remote.queue import Load
from kvplan.engine.remote.scheduler import RemoteScheduler
from kvplan.engine.remote.source import UNKNOWN, KvSource, NeverArrives
from kvplan.engine.replica import Replica
from kvplan.traces.request import Request

if TYPE_CHECKING:
    from kvplan.engine.replacement.foresight import Foresight


class RemoteReplica(Replica):
    """A ``Replica`` with a source of KV beside its own cache.

    Args:
        config, latency, recorder, foresight: as of ``Replica``.
        source: where KV comes from; a subclass that is its own source may pass ``self``.
    """

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        source: KvSource,
        foresight: Foresight | None = None,
    ) -> None:
        super().__init__(config, latency, recorder, foresight)
        self.source = source
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._timer_numbers = count()
        self.remote = self.make_scheduler(foresight)
        self.scheduler = self.remote

    def make_scheduler(self, foresight: Foresight | None) -> RemoteScheduler:
        """The scheduler; for subclasses that bring their own."""
        return RemoteScheduler(self.config, self.source, keep_schedule=self.logging, foresight=foresight)

    # -- timers -----------------------------------------------------------------------------------------

    def at(self, time_s: float, action: Callable[[float], None]) -> None:
        """Call ``action(time_s)`` once the clock has reached ``time_s``; equal times in order of entry."""
        heappush(self._timers, (time_s, next(self._timer_numbers), action))

    @property
    def next_timer(self) -> float:
        """When the next timer ends; infinite without any."""
        return self._timers[0][0] if self._timers else UNKNOWN

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """As the base class.

        Raises:
            NeverArrives: a load of unknown end is left over.
        """
        super().run(requests)
        for request in self.remote.queue.loading:
            raise NeverArrives(self.clock, request.request.id)

    def advance(self, until: float) -> None:
        """As the base class, stopping at every timer up to and including ``until``.

        Where nothing can be done before ``until``, the clock is at ``until`` afterwards (unless that is
        infinite).
        """
        timers = self._timers
        while True:
            due = self.next_timer
            super().advance(due if due < until else until)
            # The next timer may be one that began just now, also for whoever gives up meanwhile.
            gave_up = not self.stopped and self._gives_up_idle(min(self.next_timer, until))
            if self.stopped:
                return
            if gave_up:
                continue
            if not timers or self.next_timer > until:
                break
            if self.next_timer > self.clock:
                if self.next_timer < due:
                    continue
                self.clock = due  # idle until then
            while timers and timers[0][0] <= self.clock and timers[0][0] <= until:
                time_s, _, action = heappop(timers)
                action(time_s)
        if self.clock < until < UNKNOWN:
            self.clock = until

    def _gives_up_idle(self, until: float) -> bool:
        """Whether clients give up before ``until`` while nothing but loads goes on; they are gone then."""
        if self._deadlines is None or self.clock >= until or self.in_flight:
            return False
        self.gives_up_s = self._deadlines.next_s
        if self.gives_up_s >= until:
            return False
        self.clock = max(self.clock, nextafter(self.gives_up_s, UNKNOWN))
        self.give_up(self.clock, ())
        return True

    def give_up(self, clock: float, plans: Iterable[StepPlan]) -> bool:
        """As the base class; blocks that a step in flight may still write are not free yet."""
        self.remote.undelivered = plans = tuple(plans)
        gave_up = super().give_up(clock, plans)
        self.remote.undelivered = ()
        return gave_up

    # -- loads ------------------------------------------------------------------------------------------

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        """As the base class; fetches begin, and the first to end bounds ``until``."""
        if self.remote.queue.loading:
            self.watchdog.fruitless = 0  # what is on its way ends any storm of preemptions
        until = super().planned(plan, clock, until)
        self._start_fetches(clock)
        due = self.next_timer
        return due if due < until else until

    def _nothing_fits(self, clock: float) -> None:
        """Not the end as long as loads are on their way: what they hold will be released in the end.

        Nor while clients may give up: by priority, who has loaded and lacks blocks stands before those who
        hold them.
        """
        self._start_fetches(clock)
        if not self.remote.queue.loading and not self._timers and self.gives_up_s == UNKNOWN:
            super()._nothing_fits(clock)

    def _start_fetches(self, clock: float) -> None:
        begun = self.remote.begun
        if not begun:
            return
        totals = self.recorder.totals
        totals.peak_used_blocks = max(totals.peak_used_blocks, self.used_blocks)
        self.remote.begun = []
        for load in begun:
            load.began_s = clock
            done = self.source.fetch(load.request, load.start, load.tokens, clock)
            assert done >= clock, "a fetch cannot end before it begins"
            if done < UNKNOWN:
                self._end_at(load, done)

    def arrives(self, request: LiveRequest, time_s: float) -> None:
        """The fetch of a loading request, which had no known end, ends at ``time_s``."""
        self._end_at(self.remote.queue.loading[request], time_s)

    def _end_at(self, load: Load, time_s: float) -> None:
        def end(now: float) -> None:
            load.done_s = now
            self.remote.arrived(load)
            self.loaded(load)

        self.at(time_s, end)

    def loaded(self, load: Load) -> None:
        """A load is on the device; for subclasses that keep account of it."""
