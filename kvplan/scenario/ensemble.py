"""Intervals around predicted latencies: the same requests once more, under clocks that are off.

Each member of the ensemble is a whole simulation with ``Clock.perturbed``, so that an error of the clock
goes through batching and queueing as it would in the engine: far below saturation a clock 10 % slow makes
latencies about 10 % longer, near saturation several times. Copies to tiers and transfers between instances
are off by their links' bands in the same members. The interval of a statistic ``s`` is

::

    s * exp(+- 1.645 * rms(log(member / s)))

over members that are designed to have the clock's spread (``kvplan.latency.normals``), widened to the
members themselves (queueing is skewed) and to the clock's stated bands, which also cover what no member
varies: the memory left for the cache, ragged batches, the engine's own jitter. Stalls that a serving run was
seen to have reach further: the 99th percentile of TTFT of a clock fitted to it includes them. Of loads that
such a run never held, members and bands are farther off the more they differ from those it did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from kvplan.engine.protocols import LatencyModel
from kvplan.errors import KvplanError
from kvplan.latency.clock import Band, Clock
from kvplan.latency.normals import DIMENSIONS, Draw, design
from kvplan.scenario.clients import Clients
from kvplan.scenario.intervals import LARGEST_WORKLOAD, NO_CLAIM, Interval, Intervals
from kvplan.scenario.summary import AT_CLIENT, latency_objects, recorder_of
from kvplan.scenario.system import System
from kvplan.traces.request import Request

MEMBERS = 8
"""Simulations where the scenario leaves it open."""
AUTOMATIC_WORKLOAD = 2_000
"""Requests up to which an ensemble is simulated unasked: about four seconds."""
AUTOMATIC_BY_BLOCK = 200
"""The same for pools of several cache groups, which take longer."""

LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
STATISTICS = ("mean", "p50", "p90", "p99")
LOWEST = -0.9
"""No band reaches further down."""
_Z90 = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Simulations of one deployment with perturbed clocks.

    Args:
        clock: the clock of the run that is being judged.
        system: what the members simulate.
        clients: how they send the requests.
        seed: the scenario's; the members are designed from its stream ``ensemble``.
        wanted: members; None decides by the size of the workload.
    """

    clock: Clock
    system: System
    clients: Clients
    seed: int
    wanted: int | None = None

    def intervals(
        self,
        latency: Mapping[str, Any],
        requests: Sequence[Request],
        *,
        complete: bool = True,
        saturated: bool = False,
        in_flight: float = 0.0,
        on_member: Callable[[int, int], None] | None = None,
    ) -> Intervals:
        """Intervals of every statistic in ``latency``.

        Args:
            latency: the ``latency`` object of the run.
            requests: what the run was to serve, or the first ``LARGEST_WORKLOAD + 1`` of it.
            complete: whether the run came to its end; a broken one is not repeated.
            saturated: whether requests came faster than they were served: stated bands do not hold then.
            in_flight: requests sent and not finished, averaged over the run.
            on_member: told ``(simulated, members)`` before the first and after each of them.
        """
        clock = self.clock
        if clock.bands is None:
            return NO_CLAIM
        members, why = self._members(len(requests), complete)
        played: list[dict[str, Any]] = []
        if members and clock.perturbed is not None:
            try:
                played = self._play(clock.perturbed, members, requests, self._reach(in_flight), on_member)
            except KeyboardInterrupt:
                why = "the ensemble was interrupted"
            except KvplanError as exc:
                why = f"a member of the ensemble failed: {exc.message}"
        if played:
            why = (
                f"{len(played)} simulations with perturbed clocks: 90% by their spread, never narrower than "
                "the clock's stated bands"
            )
        else:
            but = ", so not for this run" if saturated else ""
            why = f"the clock's stated bands, which hold below saturation{but} ({why})"
        values = {name: self._around(name, latency, played, in_flight) for name in LATENCIES}
        return Intervals(values, len(played), why)

    def _reach(self, in_flight: float) -> float:
        """How many times as far off as it says the clock's members are at such a load."""
        seen = self.clock.seen
        return 1.0 if seen is None or seen.holds(in_flight) else seen.wider(in_flight) / seen.share

    def _members(self, requests: int, complete: bool) -> tuple[int, str]:
        """How many simulations, and why none."""
        if self.wanted == 0:
            return 0, "accuracy.ensemble is 0"
        if not complete or not requests:
            return 0, "no complete run to repeat"
        if requests > LARGEST_WORKLOAD:
            return 0, f"an ensemble is simulated for up to {LARGEST_WORKLOAD:,} requests"
        if self.wanted is not None:
            return self.wanted, ""
        limit = AUTOMATIC_BY_BLOCK if self.system.by_block else AUTOMATIC_WORKLOAD
        if requests > limit:
            return 0, f"more than {limit:,} requests; accuracy.ensemble: {MEMBERS} simulates one all the same"
        return MEMBERS, ""

    def _play(
        self,
        perturbed: Callable[[Draw], LatencyModel],
        members: int,
        requests: Sequence[Request],
        reach: float,
        on_member: Callable[[int, int], None] | None,
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        extra = self.clock.unknowns
        for row in design(members, DIMENSIONS + 1 + extra, f"{self.seed}/ensemble"):
            if on_member is not None:
                on_member(len(found), members)
            numbers, outside = row[:DIMENSIONS], row[DIMENSIONS]
            model = perturbed((*(reach * number for number in numbers), *row[DIMENSIONS + 1 :]))
            client = self.clock.client.member(NormalDist().cdf(outside), len(found))
            recorder = recorder_of(client, series=False)
            engine = self.system.perturbed(numbers).engine("fast", model, recorder)
            engine.run(self.clients.arrivals(requests, client, whole=False))
            engine.close()
            found.append(latency_objects(recorder, client)[0])
        if on_member is not None:
            on_member(members, members)
        return found

    def _around(
        self, name: str, latency: Mapping[str, Any], played: list[dict[str, Any]], in_flight: float
    ) -> dict[str, Interval] | None:
        statistics = latency[name]
        if statistics is None:
            return None
        bands, client = self.clock.bands, self.clock.client
        assert bands is not None
        metric, seen = name.removesuffix("_s"), self.clock.seen
        near: Band = bands[metric]
        far = near
        if seen is not None:
            low, high = seen.bands[metric]
            far = max(seen.wider(in_flight) * low, LOWEST), seen.wider(in_flight) * high
            near = near if seen.holds(in_flight) else far
        at_client = name in AT_CLIENT
        found = {}
        for key in STATISTICS:
            value = statistics[key]
            others = [one[name][key] for one in played if one[name] is not None]
            low, high = spread_interval(value, others)
            tail = key == "p99" and name == "ttft_s"
            band = far if tail else near
            engine = value - client.seconds if at_client else value
            stated_low = engine * (1.0 + band[0]) + (client.low_s if at_client else 0.0)
            stated_high = engine * (1.0 + band[1]) + (client.high_s if at_client else 0.0)
            if tail:
                stated_high += self.clock.tail_s
            latest = self.clients.latest_s(name)
            found[key] = [max(0.0, min(low, stated_low)), min(max(high, stated_high), latest)]
        return found


def spread_interval(value: float, members: Sequence[float]) -> tuple[float, float]:
    """The 90 % interval around ``value`` that its members suggest; ``value`` twice without members."""
    if not members:
        return value, value
    low, high = min(value, *members), max(value, *members)
    if low <= 0.0:
        return low, high
    square = math.fsum(math.log(member / value) ** 2 for member in members) / len(members)
    reach = _Z90 * math.sqrt(square)
    return min(low, value * math.exp(-reach)), max(high, value * math.exp(min(reach, 700.0)))
