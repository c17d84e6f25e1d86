"""An engine instance whose requests may wait for KV from elsewhere: loads begin and end on its clock.

Whatever ends at a known time is a *timer* (``timed``).

vLLM's workers look for loads that have ended when they launch a step, and tell it with that step's output
(``post_forward`` of its model runner, ``update_from_output`` of its scheduler). So a load that ends during
one step is found when the next one is launched, and its request takes part in the one after that; with
overlapping steps one later still. A step without a token tells what it found in its turn, too.

Where nothing can be computed, vLLM goes on planning empty steps and hears of what they find at once, as long
as it has requests (``Replica.asks``); without any it takes no step, and hears of nothing. That it sleeps a
millisecond after each of them is not simulated, as no time of the host's is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import nextafter

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.config import EngineConfig
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.remote.plan import RemotePlan
from kvplan.engine.remote.queue import Load
from kvplan.engine.remote.scheduler import RemoteScheduler
from kvplan.engine.remote.source import UNKNOWN, KvSource, NeverArrives
from kvplan.engine.remote.timed import Timed
from kvplan.engine.replica import Replica
from kvplan.traces.request import Request


class RemoteReplica(Replica, Timed):
    """A ``Replica`` with a source of KV beside its own cache.

    Args:
        config, latency, recorder: as of ``Replica``.
        source: where KV comes from; a subclass that is its own source may pass ``self``.
    """

    hears_every_step = True
    scheduler: RemoteScheduler

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        source: KvSource,
    ) -> None:
        self.source = source
        super().__init__(config, latency, recorder)
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._timer_numbers = count()
        self._nothing_planned = False

    def make_scheduler(self) -> RemoteScheduler:
        """One that loads."""
        return RemoteScheduler(self.config, self.source, keep_schedule=self.logging)

    # -- timers -----------------------------------------------------------------------------------------

    def at(self, time_s: float, action: Callable[[float], None]) -> None:
        """Call ``action(time_s)`` once the clock has reached ``time_s``; equal times in order of entry."""
        heappush(self._timers, (time_s, next(self._timer_numbers), action))

    @property
    def next_timer(self) -> float:
        """See ``Timed``."""
        return self._timers[0][0] if self._timers else UNKNOWN

    def ring(self, until: float) -> None:
        """See ``Timed``."""
        timers = self._timers
        while timers and timers[0][0] <= until:
            time_s, _, action = heappop(timers)
            action(time_s)

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """As the base class.

        Raises:
            NeverArrives: a load of unknown end is left over.
        """
        super().run(requests)
        for request in self.scheduler.queue.loading:
            raise NeverArrives(self.clock, request.request.id)

    def advance(self, until: float) -> None:
        """As the base class, stopping at every timer."""
        self.advance_by_timers(until)

    def compute(self, until: float) -> None:
        """``advance`` of an engine on which no load ends before ``until``."""
        self._nothing_planned = False
        super().advance(until)

    def notices_idle(self) -> bool:
        """Whether nothing can be computed and something has come that it asks for; it is known then."""
        scheduler = self.scheduler
        if not self.hears or not self.asks or self.in_flight:
            return False
        if not self._nothing_planned and (scheduler.running or scheduler.waiting.items):
            return False
        self.notice()
        return True

    def notice(self) -> None:
        """What has come is known, without a step that tells it."""
        self.scheduler.notice()

    def gives_up_idle(self, until: float) -> bool:
        """See ``Timed``."""
        if self.clock >= until or self.in_flight or self.deadline_s >= until:
            return False
        self.clock = max(self.clock, nextafter(self.gives_up_s, UNKNOWN))
        self.give_up(self.clock, ())
        return True

    @property
    def deadline_s(self) -> float:
        """When the next client gives up, as far as that is known now."""
        if self._deadlines is not None:
            self.gives_up_s = self._deadlines.next_s
        return self.gives_up_s

    def give_up(self, clock: float, plans: Iterable[StepPlan]) -> bool:
        """As the base class; blocks that a step in flight may still write are not free yet."""
        self.scheduler.undelivered = plans = tuple(plans)
        gave_up = super().give_up(clock, plans)
        self.scheduler.undelivered = ()
        return gave_up

    @property
    def polls(self) -> bool:
        """As the base class: while loads are on their way."""
        return self.expects_blocks

    @property
    def hears(self) -> bool:
        """As the base class."""
        return bool(self.scheduler.come)

    @property
    def expects_blocks(self) -> bool:
        """As the base class: what is on its way takes blocks until it has come."""
        queue = self.scheduler.queue
        return bool(queue.loading or queue.orphaned)

    def goes_on(self, plan: StepPlan) -> bool:
        """As the base class; empty steps that have nothing to tell lead to no other."""
        if self.scheduler.come or any(
            other.batch.scheduled_tokens or (isinstance(other, RemotePlan) and other.told)
            for other in (plan, *(flying for flying, _ in self.in_flight))
        ):
            return True
        self.in_flight.clear()
        return False

    # -- loads ------------------------------------------------------------------------------------------

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        """As the base class; fetches begin, and the first to end bounds ``until``; workers look for loads."""
        until = super().planned(plan, clock, until)
        self.start_fetches(clock)
        self.scheduler.tell(plan)
        due = self.next_timer
        return due if due < until else until

    def _nothing_fits(self, clock: float) -> None:
        """Not the end as long as loads are on their way: what they hold will be released in the end.

        Nor while clients may give up: by priority, who has loaded and lacks blocks stands before those who
        hold them.
        """
        self.start_fetches(clock)
        self._nothing_planned = True
        if self.waits_for_nothing and self.gives_up_s == UNKNOWN and self.scheduler.waiting.items:
            super()._nothing_fits(clock)

    @property
    def waits_for_nothing(self) -> bool:
        """Whether nothing is on its way that could give back blocks."""
        return not self.scheduler.queue.loading and not self._timers

    def start_fetches(self, clock: float) -> None:
        """Fetch for the loads that began in the step planned at ``clock``."""
        begun = self.scheduler.begun
        if not begun:
            return
        totals = self.recorder.totals
        totals.peak_used_blocks = max(totals.peak_used_blocks, self.used_blocks)
        self.scheduler.begun = []
        for load in begun:
            load.began_s = clock
            done = self.source.fetch(load.request, load.start, load.tokens, clock)
            assert done >= clock, "a fetch cannot end before it begins"
            if done <= clock:
                self.ended(load, clock)
            elif done < UNKNOWN:
                self.at(done, partial(self.ended, load))

    def ended(self, load: Load, now: float) -> None:
        """A load has come; the next step finds it. To be called where a source did not know its end."""
        load.done_s = now
        self.scheduler.come.append(load)
        self.loaded(load)

    def loaded(self, load: Load) -> None:
        """A load is on the device; for subclasses that keep account of it."""
