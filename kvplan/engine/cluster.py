"""Several replicas behind a router, on one clock.

Between two arrivals replicas do not touch each other, so each is advanced to the next arrival on its own;
then the router looks at all of them and one takes the request.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, nextafter
from operator import attrgetter
from typing import TYPE_CHECKING

from kvplan.engine.after_arrivals import AfterArrivals
from kvplan.engine.arrivals import Arrivals, arrivals_of
from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import make_replica, simulated_in_segments
from kvplan.engine.lockstep.ranks import RankGroup
from kvplan.engine.member import Member
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import OF_SCHEDULERS, Recorder, SeriesPoint
from kvplan.engine.replica import Replica
from kvplan.engine.router import make_router
from kvplan.engine.strategy import Strategy, strategy_engine
from kvplan.errors import UsageError
from kvplan.traces.request import Request

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig

_clock = attrgetter("clock")


def _member(
    config: EngineConfig | SglangConfig, latency: LatencyModel, recorder: Recorder, strategy: Strategy | None
) -> Member:
    if strategy is None and isinstance(config, EngineConfig):
        return make_replica(config, latency, recorder)
    from kvplan.engine.sglang.replica import SglangReplica

    if strategy is None:
        assert not isinstance(config, EngineConfig)
        return SglangReplica(config, latency, recorder)
    engine = strategy_engine(strategy, config, latency, recorder)
    assert isinstance(engine, Replica | SglangReplica | RankGroup), (
        "a strategy behind a router makes replicas"
    )
    return engine


class Cluster:
    """Equal replicas of one engine, or of what a strategy makes of it.

    Rows of all replicas go to the one recorder. Decision lines carry the replica's number and a tab in
    front. Peaks in the totals are sums of the replicas' own peaks (an upper bound of the peak of the
    sum). The series is sampled at arrivals, and after the last one as often. A strategy's sections carry the
    replica's number.

    Raises:
        UsageError: fewer than one replica, or a pool of which the fast engine does not know how to keep it
            (only that engine can be advanced step by step).
        UnknownName: no such routing policy.
    """

    def __init__(
        self,
        replicas: int,
        router: str,
        config: EngineConfig | SglangConfig,
        latency: LatencyModel,
        recorder: Recorder,
        strategy: Strategy | None = None,
    ) -> None:
        if replicas < 1:
            raise UsageError(f"a cluster needs at least one replica, not {replicas}")
        if strategy is None and isinstance(config, EngineConfig) and not simulated_in_segments(config):
            raise UsageError(
                "several replicas are not simulated with full attention (or chunks) in blocks of two sizes",
                hint="simulate one replica of this model with the rate divided by the number of replicas",
            )
        self.recorder = recorder
        self.router = make_router(router)
        self.replicas: list[Member] = [
            _member(config, latency, recorder.of_member(index, series=True), strategy)
            for index in range(replicas)
        ]

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """Serve the requests, which arrive in the order given."""
        recorder, replicas = self.recorder, self.replicas
        arrivals = arrivals_of(requests, recorder)
        number, first, last = 0, 0.0, 0.0
        if arrivals.patience is not None:
            for replica in replicas:
                replica.expect(arrivals.patience)
        while not arrivals.over:
            self._reach_next(arrivals)
            if arrivals.over:
                break  # nobody has tried again
            request = arrivals.take()
            last = request.arrival_s
            if number == 0:
                first = last
            if recorder.wants_point(number):
                recorder.point(self._point(last))
            replicas[self.router.choose(request, replicas)].push(request)
            number += 1
        self._finish(AfterArrivals(number, first, last))

    def _reach_next(self, arrivals: Arrivals) -> None:
        """Advance all replicas to the next arrival.

        Where clients wait for answers, the replica that is furthest behind goes first, and no further than
        the next one or an answer, until no answer (nor its absence) can bring a request before that any more.
        """
        for replica in self.replicas:
            replica.stops = arrivals.waits
        while arrivals.waits:
            bound = arrivals.next_s - arrivals.reaction_s
            behind = sorted((replica for replica in self.replicas if replica.busy), key=_clock)
            if not behind or behind[0].clock >= bound:
                break
            horizon = min(bound, behind[1].clock) if len(behind) > 1 else bound
            behind[0].advance(max(horizon, nextafter(behind[0].clock, inf)))
        for replica in self.replicas:
            replica.stops = False
            if arrivals.next_s > replica.clock:
                replica.advance(arrivals.next_s)

    def _finish(self, points: AfterArrivals) -> None:
        """Serve what is left after the last arrival."""
        recorder, replicas = self.recorder, self.replicas
        while any(replica.busy for replica in replicas):
            until = points.next_s(recorder.series_stride)
            for replica in replicas:
                replica.advance(until)
            if not any(replica.busy for replica in replicas):
                until = max(replica.clock for replica in replicas)
            recorder.point(self._point(until))

    def _point(self, now: float) -> SeriesPoint:
        points = [replica.point(now)[1:] for replica in self.replicas]
        return SeriesPoint(now, *map(sum, zip(*points, strict=True)))

    def close(self) -> None:
        """Bring the totals up to date; also after an interrupted run."""
        totals = self.recorder.totals
        for replica in self.replicas:
            replica.close()
        totals.add_up(
            ("requests", "steps", *OF_SCHEDULERS), [replica.recorder.totals for replica in self.replicas]
        )
        self.recorder.settle()
        for index, replica in enumerate(self.replicas):
            for section, metrics in replica.recorder.sections.items():
                self.recorder.sections[f"{section} {index}"] = metrics
