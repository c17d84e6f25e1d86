"""An engine instance that offloads: what its worker copies, and when."""

from __future__ import annotations

from typing import cast

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.connector import ConnectorScheduler
from kvplan.engine.offloading.copies import Way
from kvplan.engine.offloading.memory import HostMemory
from kvplan.engine.offloading.scheduler import OffloadingScheduler
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.remote.plan import RemotePlan
from kvplan.engine.remote.queue import Transfer
from kvplan.engine.remote.replica import RemoteReplica
from kvplan.engine.tiers.line import Line


class OffloadingReplica(RemoteReplica):
    """A replica with vLLM's offloading connector.

    Args:
        config, latency, recorder: as of ``Replica``.
        cache: the host's, empty; chunk_blocks: blocks of a chunk.
        put, get: the ways to the host and back.

    Attributes:
        flushes, flush_s: steps that were launched late, as they waited for stores; by how much together.
        load_s: time loads took, waiting for their step and for the link included.
        cached_tokens: of first admissions that were not computed.
    """

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        cache: HostMemory,
        chunk_blocks: int,
        put: Line,
        get: Line,
    ) -> None:
        self.cache = cache
        self.chunk_blocks = chunk_blocks
        self.put, self.get = Way(put), Way(get)
        self.flushes = self.cached_tokens = 0
        self.flush_s = self.load_s = 0.0
        self._launched_s = 0.0
        super().__init__(config, latency, recorder, self)

    def make_scheduler(self) -> ConnectorScheduler:
        """With the connector's side of it."""
        self.offloading: ConnectorScheduler = OffloadingScheduler(
            self.config,
            self,
            cast(HostCache, self.cache),
            self.chunk_blocks,
            keep_schedule=self.logging,
        )
        return self.offloading

    # -- KvSource: the scheduler asks the cache itself --------------------------------------------------

    def lookup(self, request: LiveRequest, start: int) -> int:
        """See ``KvSource``."""
        return self.offloading.fetchable(request, start)

    def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
        """See ``KvSource``; what can be loaded begins after a step (``launch``)."""
        raise AssertionError("loads begin with a step")

    # -- the worker -------------------------------------------------------------------------------------

    @property
    def polls(self) -> bool:
        """As the base class, and while stores are on their way."""
        return bool(self.offloading.outstanding) or super().polls

    @property
    def owes(self) -> bool:
        """A step after the one that ended requests."""
        return bool(self.offloading.over)

    def launch(self, plan: StepPlan, clock: float, device_free: float) -> float:
        """As the base class; the step may have to wait for stores, and copies begin when it has ended."""
        launched = self.flush(plan, clock, device_free)
        ready = max(launched, device_free)
        if not plan.batch.scheduled_tokens:
            self.copy(plan, clock, ready, ready)
            return launched
        ready += self.step_seconds(plan)
        self.copy(plan, clock, ready, ready - plan.batch.drafting_s)  # which the drafter's passes follow
        return ready

    def flush(self, plan: StepPlan, clock: float, device_free: float) -> float:
        """When workers launch a step: after the stores it has to wait for."""
        scheduler = self.offloading
        free = max(clock, self._launched_s)
        flushed, scheduler.flushed = scheduler.flushed, {}
        for store in [each for each in scheduler.stores if each in flushed]:
            scheduler.stores.remove(store)
            self._send(self.put, store, store.blocks, max(free, device_free))
        launched = max([free, *(store.done_s for store in flushed)])
        if launched > max(free, device_free):
            self.flushes += 1
            self.flush_s += launched - max(free, device_free)
        self._launched_s = launched
        return launched

    def copy(self, plan: StepPlan, clock: float, ready: float, outputs_s: float) -> None:
        """Copies of a step planned at ``clock`` begin, which is computed at ``ready``, and whose outputs are
        there at ``outputs_s``.

        Whatever had ended when it was launched becomes known with it.
        """
        scheduler, launched = self.offloading, self._launched_s
        stores, scheduler.stores = scheduler.stores, []
        for store in stores:
            self._send(self.put, store, store.blocks, ready)
        self._load(clock, outputs_s)
        told = (*self.put.ended(launched), *self.get.ended(launched))
        if told and isinstance(plan, RemotePlan):
            plan.told = told
            scheduler.come.clear()

    def _load(self, clock: float, ready: float) -> None:
        begun, self.scheduler.begun = self.scheduler.begun, []
        if begun:
            totals = self.recorder.totals
            totals.peak_used_blocks = max(totals.peak_used_blocks, self.used_blocks)
        for load in begun:
            load.began_s = clock
            self._send(self.get, load, self.offloading.loaded_blocks(load), ready)
            self.load_s += load.done_s - clock

    def _send(self, way: Way, transfer: Transfer, blocks: int, now: float) -> None:
        done = way.send(transfer, blocks, now)
        self.at(done, lambda _: self._ended_one(way, transfer))

    def _ended_one(self, way: Way, transfer: Transfer) -> None:
        if transfer in way.flying:
            self.scheduler.come.append(transfer)

    def notice(self) -> None:
        """As the base class."""
        come = list(self.scheduler.come)
        super().notice()
        for way in (self.put, self.get):
            for transfer in come:
                if transfer in way.flying:
                    way.flying.remove(transfer)

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        """As the base class."""
        until = super().planned(plan, clock, until)
        for request in plan.admitted:
            self.cached_tokens += request.cached_tokens
        return until

    def close(self) -> None:
        """As the base class; writes the section ``tiers``."""
        super().close()
        from kvplan.engine.offloading.metrics import metrics

        self.recorder.sections["tiers"] = metrics(self)
