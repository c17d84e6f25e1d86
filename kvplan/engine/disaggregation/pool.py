"""The instances that only prefill, or only decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.router import make_router

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig


class Pool:
    """What one of the two pools is made of."""

    __slots__ = ("config", "instances", "latency", "router")

    def __init__(
        self, config: EngineConfig | SglangConfig, latency: LatencyModel, instances: int, router: str
    ) -> None:
        self.config = config
        self.latency = latency
        self.instances = instances
        self.router = make_router(router)

    @property
    def options(self) -> EngineConfig:
        """Options of vLLM's instances."""
        assert isinstance(self.config, EngineConfig)
        return self.config

    @property
    def sglang(self) -> SglangConfig:
        """Options of SGLang's instances."""
        assert not isinstance(self.config, EngineConfig)
        return self.config
