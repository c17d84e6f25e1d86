"""vLLM's offloading connector as a strategy: plain values a scenario is translated to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.order import EvictionPolicy
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.tiers.line import Carrier, Line
from kvplan.errors import UsageError


@dataclass(frozen=True, slots=True)
class Offloading:
    """Host memory as vLLM uses it.

    Attributes:
        block_bytes: bytes of one block, all GPUs of the replica together, on the device and in the host.
        chunks: what the host holds.
        put, get: how long copies to it and from it take, alone on the link.
        chunk_blocks: blocks that are stored, found and evicted together (vLLM's ``blocks_per_chunk``).
        policy: which chunks go first.
    """

    behind_router: ClassVar[bool] = True
    asks_once: ClassVar[bool] = True
    block_bytes: int
    chunks: int
    put: Carrier
    get: Carrier
    chunk_blocks: int = 1
    policy: EvictionPolicy = "lru"

    def __post_init__(self) -> None:
        if self.block_bytes < 1 or self.chunks < 0 or self.chunk_blocks < 1:
            raise UsageError(
                f"{self.chunks} chunks of {self.chunk_blocks} blocks of {self.block_bytes} bytes",
                hint="a chunk has at least one block, and a block at least one byte",
            )
        if self.policy not in ("lru", "arc"):
            raise UsageError(f"unknown eviction policy {self.policy!r} of the host", hint="lru or arc")

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "tiers"

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> OffloadingReplica:
        """One replica above such a host.

        Raises:
            UsageError: as ``check``.
        """
        self.check(config)
        return OffloadingReplica(
            config,
            latency,
            recorder,
            HostCache(self.chunks, self.chunk_blocks * config.block_size, self.policy),
            self.chunk_blocks,
            Line("to_host", self.put, self.block_bytes, self.block_bytes),
            Line("from_host", self.get, self.block_bytes, self.block_bytes),
        )

    @staticmethod
    def check(config: EngineConfig) -> None:
        """Refuse engines that vLLM's connector is not simulated with.

        Raises:
            UsageError: several layer groups or states, no prefix cache, or another eviction order on the GPU.
        """
        if len(config.groups) != 1 or config.groups[0].kind != "full":
            kinds = ", ".join(group.kind for group in config.groups)
            raise UsageError(
                f"the offloading connector is simulated below one group of full attention, not below {kinds}",
                where="tiers.host.connector",
                hint="leave the tiers out for this model, or --set 'cache.groups=[{kind: full}]' for an "
                "approximation",
            )
        if not config.enable_prefix_caching:
            raise UsageError(
                "the offloading connector is not simulated without a prefix cache on the GPU",
                where="cache.prefix",
                hint="turn it on (cache.prefix: hash)",
            )
        if config.eviction != "lru":
            raise UsageError(
                f"the offloading connector is vLLM's, and vLLM evicts by lru, not by {config.eviction}",
                where="cache.eviction",
                hint="leave cache.eviction at lru, or leave out tiers.host.connector",
            )
