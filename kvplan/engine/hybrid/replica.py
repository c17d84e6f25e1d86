"""A vLLM engine with several cache groups on one pool."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.hybrid.scheduler import HybridScheduler
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.replica import Replica
from kvplan.traces.request import Request


class HybridReplica(Replica):
    """``Replica`` over any groups that ``covers`` allows."""

    hears_every_step = True

    def __init__(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> None:
        super().__init__(config, latency, recorder)
        self.scheduler = self.hybrid = HybridScheduler(config, keep_schedule=self.logging)

    def prompt_blocks_of(self, request: Request) -> int:
        """As the base class, in blocks of the scheduler."""
        return -(-request.prompt_tokens // self.scheduler.block_size)

    def cached_blocks_of(self, request: Request) -> int:
        """As the base class, in blocks of the scheduler."""
        if not self.scheduler.caching:
            return 0
        return self.hybrid.cache.lookup(HybridRequest(request, self.scheduler.index.root)).blocks
