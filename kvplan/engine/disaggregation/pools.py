"""Both pools on one clock.

Instances act one after the other, always the one that can first be noticed by others (``next_s``), and no
further than to where another one, an arrival or an event could be noticed by it. So whatever reaches an
instance at time t meets it with every step planned before t and none after. What an instance brings about
when it plans a step is therefore done at once; what a step brings when it ends is an event, as others may
come before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from math import inf, nextafter
from typing import Generic, Protocol, TypeVar

from kvplan.engine.after_arrivals import AfterArrivals
from kvplan.engine.arrivals import Arrivals, arrivals_of
from kvplan.engine.disaggregation.breakdown import Breakdown, link_metrics
from kvplan.engine.disaggregation.fabric import Fabric, Stage
from kvplan.engine.disaggregation.pool import Pool
from kvplan.engine.errors import EngineStuck
from kvplan.engine.recorder import OF_SCHEDULERS, Metric, Recorder, SeriesPoint
from kvplan.traces.request import Request

_OF_PREFILL = ("queried_tokens", "hit_tokens")


class Actor(Protocol):
    """An instance of either pool.

    Attributes:
        clock: when it plans its next step.
        stops: whether ``advance`` is to end when somebody finishes.
    """

    clock: float
    stops: bool
    recorder: Recorder

    @property
    def next_s(self) -> float:
        """Others notice nothing of what it does before this time; infinite while nobody waits for it."""
        ...

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        ...

    @property
    def computes(self) -> bool:
        """Whether its device has something to do, now or with the next step."""
        ...

    def advance(self, until: float) -> None:
        """Go on until the clock is at ``until`` or later, or until others must act first."""
        ...

    def catch_up(self, now: float) -> None:
        """Bring it to ``now``, when something reaches it. ``next_s`` must not be before that."""
        ...

    def refusal(self, request: Request) -> str | None:
        """Why it could never serve a request, or ``None``."""
        ...

    def some_request(self) -> str:
        """The id of a request that is not finished."""
        ...

    def point(self, now: float) -> SeriesPoint:
        """The state as the series has it."""
        ...

    def close(self) -> None:
        """Bring its totals up to date."""
        ...


WayT = TypeVar("WayT")
PrefillT = TypeVar("PrefillT", bound=Actor)
DecodeT = TypeVar("DecodeT", bound=Actor)


class PoolsEngine(Generic[WayT, PrefillT, DecodeT]):
    """Pools of prefill and of decode instances; ``WayT`` is what is kept about a request on its way.

    Rows go to the one recorder, one a request; ``cached_tokens`` are those the prefill instance found.
    Decision lines carry ``P`` or ``D``, the instance's number and a tab in front. Totals are sums over all
    instances (peaks: of their own peaks), but tokens queried and hit are those of the prefill pool: what the
    decode pool finds in its caches saves no computing, only bytes to send.

    Args:
        pools: those of prefill and of decode instances.
        route: stages from a prefill to a decode instance.
        breakdown: where the ways of requests are counted.
    """

    def __init__(
        self,
        pools: tuple[Pool, Pool],
        recorder: Recorder,
        route: tuple[Stage, ...],
        breakdown: Breakdown,
    ) -> None:
        self.recorder = recorder
        self.pools = pools
        self.breakdown = breakdown
        prefill, decode = pools
        self.prefills: list[PrefillT] = [
            self.prefill_instance(prefill, self._recorder_of("P", index))
            for index in range(prefill.instances)
        ]
        self.decodes: list[DecodeT] = [
            self.decode_instance(decode, self._recorder_of("D", index)) for index in range(decode.instances)
        ]
        self.fabric = Fabric(route, prefill.instances * prefill.adapters, decode.instances * decode.adapters)
        self.kept_bytes = 0
        self._events: list[tuple[float, int, Callable[[WayT, float], None], WayT]] = []
        self._posted = 0
        self._points: AfterArrivals | None = None
        self._touched = True

    def prefill_instance(self, pool: Pool, recorder: Recorder) -> PrefillT:
        """One instance of the prefill pool."""
        raise NotImplementedError

    def decode_instance(self, pool: Pool, recorder: Recorder) -> DecodeT:
        """One instance of the decode pool."""
        raise NotImplementedError

    def way_of(self, request: Request) -> WayT:
        """What is kept about a request that arrives."""
        raise NotImplementedError

    def asked_of_prefill(self, way: WayT) -> Request:
        """What a prefill instance is asked for."""
        raise NotImplementedError

    def take_in(self, way: WayT, request: Request, before: Request) -> None:
        """A request both pools can serve, and what is asked of a prefill instance; those have caught up."""
        raise NotImplementedError

    def before_event(self, time_s: float, posted: int) -> None:
        """Event number ``posted`` is next, at ``time_s``."""

    def _recorder_of(self, kind: str, index: int) -> Recorder:
        log = self.recorder.on_decision
        return Recorder(
            on_decision=None if log is None else (lambda line: log(f"{kind}{index}\t{line}")),
            series=False,  # it is that of all instances together
        )

    # -- order ------------------------------------------------------------------------------------------

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """Serve the requests, which arrive in the order given."""
        recorder = self.recorder
        arrivals = arrivals_of(requests, recorder)
        begun_s = arrivals.next_s
        number = 0
        events = self._events
        actors: list[PrefillT | DecodeT] = [*self.prefills, *self.decodes]
        for decode in self.decodes:
            decode.stops = arrivals.waits
        noticed: list[float] = []
        while True:
            event_s = events[0][0] if events else inf
            arrival_s = arrivals.next_s
            due = event_s if event_s < arrival_s else arrival_s
            if self._touched:
                self._touched = False
                noticed = [actor.next_s for actor in actors]
            first = min(noticed)
            if first < due:
                index = noticed.index(first)
                noticed[index] = inf
                horizon = min(noticed)
                if due < horizon:
                    horizon = due
                actor = actors[index]
                actor.advance(horizon if horizon > first else nextafter(first, inf))
                noticed[index] = actor.next_s
                continue
            if due == inf:
                break
            self._touched = True
            if event_s <= arrival_s:
                time_s, posted, act, way = heappop(events)
                self.before_event(time_s, posted)
                act(way, time_s)
            else:
                way = self._arrive(arrivals.take(), number)
                number += 1
                if arrivals.over:
                    self._points = AfterArrivals(number, begun_s, arrival_s)
                    self._expect_point(way)
        for decode in self.decodes:
            decode.advance(inf)
        for replica in actors:
            if replica.busy:
                raise EngineStuck(replica.clock, replica.some_request())
        recorder.settle()
        if recorder.series:
            recorder.point(self._point(max(recorder.series[-1].t_s, recorder.totals.makespan_s)))

    def _post(self, time_s: float, act: Callable[[WayT, float], None], way: WayT) -> None:
        heappush(self._events, (time_s, self._posted, act, way))
        self._posted += 1

    def _expect_point(self, way: WayT) -> None:
        assert self._points is not None
        self._post(self._points.next_s(self.recorder.series_stride), self._sample, way)

    def _sample(self, way: WayT, now: float) -> None:
        """A point of the series after the last arrival, and the next one while anything goes on."""
        actors: list[PrefillT | DecodeT] = [*self.prefills, *self.decodes]
        # Asked first: whoever is brought to a time looks around once more, even where nothing can happen.
        moves = any(actor.next_s < inf for actor in actors)
        for decode in self.decodes:
            decode.catch_up(now)
        if moves or self._events or any(decode.computes for decode in self.decodes):
            self.recorder.point(self._point(now))
            self._expect_point(way)

    def _arrive(self, request: Request, number: int) -> WayT:
        recorder, now = self.recorder, request.arrival_s
        recorder.totals.requests += 1
        for prefill in self.prefills:
            prefill.catch_up(now)
        if recorder.wants_point(number):
            for decode in self.decodes:
                decode.catch_up(now)
            recorder.point(self._point(now))
        way = self.way_of(request)
        before = self.asked_of_prefill(way)
        reason = self._rejection(request, before)
        if reason is None:
            self.take_in(way, request, before)
        else:
            recorder.rejected(request.id, reason)
        return way

    def _rejection(self, request: Request, before: Request) -> str | None:
        """Why one of the pools could never serve this request."""
        reason = self.decodes[0].refusal(request)
        if reason is not None:
            return reason if self.pools[0].config == self.pools[1].config else f"decode pool: {reason}"
        reason = self.prefills[0].refusal(before)
        return None if reason is None else f"prefill pool: {reason}"

    # -- what is written down ---------------------------------------------------------------------------

    @property
    def _instances(self) -> Sequence[PrefillT | DecodeT]:
        return (*self.prefills, *self.decodes)

    def _point(self, now: float) -> SeriesPoint:
        points = [replica.point(now) for replica in self._instances]
        prompts = points[: len(self.prefills)]
        return SeriesPoint(
            now,
            sum(point.used_blocks for point in points),
            sum(point.cached_blocks for point in points),
            sum(point.running for point in points),
            sum(point.waiting for point in points),
            sum(point.queried_tokens for point in prompts),
            sum(point.hit_tokens for point in prompts),
            sum(point.preemptions for point in points),
        )

    def close(self) -> None:
        """Bring totals and metrics up to date; also after an interrupted run."""
        totals = self.recorder.totals
        self.recorder.settle()
        for replica in self._instances:
            # What it tells of its links is of the whole run, though nobody may finish there.
            replica.recorder.totals.makespan_s = totals.makespan_s
            replica.close()
        totals.add_up(("steps", *OF_SCHEDULERS), [replica.recorder.totals for replica in self._instances])
        totals.add_up(_OF_PREFILL, [prefill.recorder.totals for prefill in self.prefills])
        self.recorder.sections["disaggregation"] = list(self.metrics())
        for name, pool in self._pools:
            for index, instance in enumerate(pool):
                number = f" {index}" if len(pool) > 1 else ""
                for section, told in instance.recorder.sections.items():
                    self.recorder.sections[f"{section} {name}{number}"] = told

    @property
    def _pools(self) -> tuple[tuple[str, Sequence[Actor]], ...]:
        return ("prefill", self.prefills), ("decode", self.decodes)

    def metrics(self) -> Iterator[Metric]:
        """What a result says of the pools beside the totals; here what all pools have to say."""
        yield from self.breakdown.metrics()
        yield from link_metrics(self.fabric, self.recorder.totals.makespan_s, self.kept_bytes)

    def pool_metrics(self) -> Iterator[Metric]:
        """The last of the metrics: both pools by themselves."""
        for name, pool in self._pools:
            for field, unit, meaning in (
                ("peak_used_blocks", "blocks", "referenced blocks; sum of the instances' peaks"),
                ("preemptions", "1", "requests preempted"),
                ("steps", "1", "engine steps"),
            ):
                value = sum(getattr(replica.recorder.totals, field) for replica in pool)
                yield Metric(f"{name}_{field}", value, unit, f"{meaning}, {name} pool")
