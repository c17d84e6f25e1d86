"""Ranks of data-parallel attention as one server of a pool: each has its own queues and memory.

Every rank goes round the loop of a prefill or of a decode server. As all gather before they launch
(``maybe_prepare_mlp_sync_batch``), they go round together, and a rank without a batch runs an empty one
beside the others. A decode server's ranks get requests in turn, a prefill server's by the number of the room
where both servers meet (``follow_bootstrap_room``), which the router draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Generic, TypeVar, cast

from kvplan.engine.disaggregation.pool import Ranks
from kvplan.engine.disaggregation.sglang.instance import Server, SglangInstance
from kvplan.engine.lockstep.sglang import Flight, SglangLockstepEngine
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.router import ReplicaView, RoundRobin, Router, make_router
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.traces.request import Request

InstanceT = TypeVar("InstanceT", bound=SglangInstance)


class BootstrapRooms:
    """Evenly by a number that says nothing of the request; here one that follows from its id."""

    def choose(self, request: Request, replicas: Sequence[ReplicaView]) -> int:
        """See ``Router``."""
        room = blake2b(request.id.encode(), digest_size=8).digest()
        return int.from_bytes(room, "little") % len(replicas)


def router_of(ranks: Ranks, *, prefills: bool) -> Router:
    """Who deals requests to the ranks of a server: SGLang's own way where none is named.

    Raises:
        UnknownName: no such routing policy.
    """
    if ranks.router is not None:
        return make_router(ranks.router)
    return BootstrapRooms() if prefills else RoundRobin()


class ServerRanks(SglangLockstepEngine, Server, Generic[InstanceT]):
    """An instance of a pool that has ranks.

    Args:
        ranks, router: how many, and who deals requests to them.
        config, latency, recorder: as of ``SglangLockstepEngine``.
        make: a rank.
    """

    def __init__(
        self, ranks: int, router: Router, config: SglangConfig, latency: LatencyModel, recorder: Recorder,
        make: Callable[[SglangConfig, LatencyModel, Recorder], InstanceT],
    ) -> None:  # fmt: skip
        super().__init__(ranks, "round-robin", config, latency, recorder, make)
        self.router = router

    @property
    def members(self) -> Sequence[InstanceT]:
        """Whoever has requests: its ranks."""
        return cast("Sequence[InstanceT]", self.ranks)

    @property
    def noticeable(self) -> bool:
        """See the base class."""
        return self.stops or any(rank.noticeable for rank in self.members)

    @property
    def computes(self) -> bool:
        """Whether a device has something to do, now or with the next step."""
        return any(rank.computes for rank in self.members)

    def some_request(self) -> str:
        """The id of a request that is not finished."""
        return next(rank.some_request() for rank in self.members if rank.scheduler.awaits)

    def refusal(self, request: Request) -> str | None:
        """Why none of its ranks could ever serve a request, or ``None``."""
        return self.members[0].refusal(request)

    # -- rounds -----------------------------------------------------------------------------------------

    def advance(self, until: float) -> None:
        """As the base class; a parked one goes on when it wakes. See also ``Actor``."""
        self.wake_by(until)
        for rank in self.ranks:
            rank.stops = self.stops
        super().advance(until)

    def _plan(self) -> tuple[SglangPlan, ...]:
        """See the base class."""
        plans = super()._plan()
        self._hear()
        return plans

    def _batches(self) -> tuple[SglangPlan, ...]:
        """See the base class."""
        return tuple(rank.make_batch(self.clock) for rank in self.members)

    def _launch(self, plans: tuple[SglangPlan, ...]) -> float:
        """See the base class."""
        start = max(self.clock, self._device_free)
        for rank, plan in zip(self.members, plans, strict=True):
            rank.begins(plan, start)
        self._hear()
        return super()._launch(plans)

    def _deliver(self, flight: Flight) -> None:
        super()._deliver(flight)
        self._hear()

    def _hear(self) -> None:
        """Others must act first where a rank says so."""
        self.stopped |= any(rank.stopped for rank in self.ranks)

    def _wait(self, until: float) -> None:
        """See the base class: until something reaches it."""
        self.park()

    def served(self) -> tuple[list[int], str]:
        """As the base class; requests end elsewhere, or not here alone."""
        return self.dealt()
