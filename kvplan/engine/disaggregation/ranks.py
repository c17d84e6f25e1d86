"""Instances of vLLM's pools that are data-parallel ranks in step.

To its peers and to the load balancer a rank is an engine of its own: NIXL addresses ranks (an engine id and
a side channel each), so a cache goes from the rank that computed it to the one that decodes. The load
balancer of either side counts a rank's requests, those that wait for their KV included, but none that has
answered and only keeps its blocks until they are read. Nor does such a one keep a wave going: when nobody
has an unfinished request the ranks stop, and the rank that holds the blocks goes on by itself until they
are free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.decode import DecodeReplica, Decoding
from kvplan.engine.disaggregation.journey import Journey
from kvplan.engine.disaggregation.pool import Pool, Ranks
from kvplan.engine.disaggregation.prefill import Prefilling, PrefillReplica
from kvplan.engine.lockstep.engine import LockstepEngine
from kvplan.engine.lockstep.remote import RemoteRanks
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.traces.request import Request

RankT = TypeVar("RankT", PrefillReplica, DecodeReplica)
Make = Callable[[EngineConfig, LatencyModel, Recorder], RankT]


class PooledRanks(LockstepEngine):
    """What instances of either pool that have ranks answer for these."""

    @property
    def members(self) -> Sequence[PrefillReplica | DecodeReplica]:
        """Whoever has requests: its ranks."""
        raise NotImplementedError

    @property
    def computes(self) -> bool:
        """Whether a device has something to do, now or with the next step."""
        return bool(self._in_flight) or any(rank.computes for rank in self.members)

    def refusal(self, request: Request) -> str | None:
        """Why none of its ranks could ever serve a request, or ``None``."""
        return self.members[0].refusal(request)

    def some_request(self) -> str:
        """The id of a request that is not finished."""
        return next(rank.some_request() for rank in self.members if rank.busy)

    def served(self) -> tuple[list[int], str]:
        """As the base class; requests end elsewhere, or come from there."""
        return self.dealt()


class PrefillRanks(PooledRanks, Prefilling):
    """An instance of the prefill pool that has ranks.

    Args:
        pool: what its instances are made of; ``ranks``: how many, and who deals requests to them.
        recorder: as of ``LockstepEngine``.
        make: a rank.
    """

    def __init__(self, pool: Pool, ranks: Ranks, recorder: Recorder, make: Make[PrefillReplica]) -> None:
        super().__init__(ranks.count, ranks.balancer, pool.options, pool.latency, recorder, make)

    @property
    def members(self) -> Sequence[PrefillReplica]:
        """Whoever has requests: its ranks."""
        return cast("Sequence[PrefillReplica]", self.ranks)

    def take(self, request: Request) -> int:
        """A request to compute; returns which of the ranks gets it."""
        return self.give(request)

    @property
    def peak_held(self) -> int:
        """Most requests computed and not yet sent: the sum of the ranks' own peaks."""
        return sum(rank.peak_held for rank in self.members)

    def _nothing_fits(self) -> None:
        """As the base class; what is sent gives its blocks back."""
        if not any(rank.scheduler.held for rank in self.members):
            super()._nothing_fits()
        self.parked_s = self.clock


class DecodeRanks(PooledRanks, RemoteRanks, Decoding):
    """An instance of the decode pool that has ranks; see ``PrefillRanks``."""

    def __init__(self, pool: Pool, ranks: Ranks, recorder: Recorder, make: Make[DecodeReplica]) -> None:
        super().__init__(ranks.count, ranks.balancer, pool.options, pool.latency, recorder, make)

    @property
    def members(self) -> Sequence[DecodeReplica]:
        """Whoever has requests: its ranks."""
        return cast("Sequence[DecodeReplica]", self.ranks)

    @property
    def expected(self) -> int:
        """See the base class."""
        return sum(rank.expected for rank in self.members)

    def advance(self, until: float) -> None:
        """As the base class, up to the step in which blocks were reserved."""
        self.go_on(until)

    def offer(self, journey: Journey, request: Request) -> int:
        """As of one rank; returns which of them gets it."""
        rank = self.deal(request)
        self.members[rank].clock = self.clock
        self.members[rank].offer(journey, request)
        return rank

    def _nothing_fits(self) -> None:
        """As the base class, and then it stands still."""
        super()._nothing_fits()
        self.parked = not self.hears


PrefillInstance = PrefillReplica | PrefillRanks
DecodeInstance = DecodeReplica | DecodeRanks
