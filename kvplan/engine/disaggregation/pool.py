"""The instances that only prefill, or only decode."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.router import make_router


class Pool:
    """What one of the two pools is made of."""

    __slots__ = ("config", "instances", "latency", "router")

    def __init__(self, config: EngineConfig, latency: LatencyModel, instances: int, router: str) -> None:
        self.config = config
        self.latency = latency
        self.instances = instances
        self.router = make_router(router)
