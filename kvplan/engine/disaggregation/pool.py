"""The instances that only prefill, or only decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.router import make_router

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig
    from kvplan.engine.sglang_states.strategy import RecurrentStates
    from kvplan.engine.sglang_windows.strategy import WindowPools


@dataclass(frozen=True, slots=True)
class Ranks:
    """Ranks of data-parallel attention that an instance is made of.

    Args:
        count: how many.
        adapters: of the network, shared out evenly; each serves one or more ranks.
        router: who deals requests to them; None: as the engine does.
    """

    count: int
    adapters: int = 1
    router: str | None = None

    @property
    def balancer(self) -> str:
        """Who deals requests to vLLM's."""
        return self.router or "least-loaded"

    def adapter_of(self, rank: int) -> int:
        """The one a rank sends or receives through."""
        return rank * self.adapters // self.count


class Pool:
    """What one of the two pools is made of; ``ranks``: of each instance, where it has some; ``beside``: what
    SGLang's instances have beside their tokens."""

    __slots__ = ("beside", "config", "instances", "latency", "ranks", "router")

    def __init__(
        self, config: EngineConfig | SglangConfig, latency: LatencyModel, instances: int, router: str,
        ranks: Ranks | None = None, beside: RecurrentStates | WindowPools | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self.beside = beside
        self.ranks = ranks
        self.latency = latency
        self.instances = instances
        self.router = make_router(router)

    @property
    def adapters(self) -> int:
        """Network adapters of an instance that carry one transfer each."""
        return 1 if self.ranks is None else self.ranks.adapters

    def adapter_of(self, instance: int, rank: int) -> int:
        """The number of a rank's network adapter among those of the pool."""
        within = 0 if self.ranks is None else self.ranks.adapter_of(rank)
        return instance * self.adapters + within

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
