"""vLLM's offloading connector as a strategy: plain values a scenario is translated to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import one_full_group
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.order import EvictionPolicy
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.tiers.line import Carrier, Line
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.engine.offloading.grouped.host import HostChunks
    from kvplan.engine.speculation.strategy import Speculation


@dataclass(frozen=True, slots=True)
class Offloading:
    """Host memory as vLLM uses it.

    Attributes:
        block_bytes: bytes of one block, all GPUs of the replica together, on the device and in the host.
        chunks: what the host holds.
        put, get: how long copies to it and from it take, alone on the link.
        chunk_blocks: blocks that are stored, found and evicted together (vLLM's ``blocks_per_chunk``).
        policy: which chunks go first.
        drafts: what the engine drafts with; None: nothing.
    """

    behind_router: ClassVar[bool] = True
    asks_once: ClassVar[bool] = True
    block_bytes: int
    chunks: int
    put: Carrier
    get: Carrier
    chunk_blocks: int = 1
    policy: EvictionPolicy = "lru"
    drafts: Speculation | None = None

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

    def with_drafts(self, drafts: Speculation) -> Offloading:
        """The same, with drafts."""
        return replace(self, drafts=drafts)

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> OffloadingReplica:
        """One replica above such a host.

        Raises:
            UsageError: as ``check``.
        """
        self.check(config, self.chunk_blocks)
        lines = (
            Line("to_host", self.put, self.block_bytes, self.block_bytes),
            Line("from_host", self.get, self.block_bytes, self.block_bytes),
        )
        if self.drafts is not None:
            from kvplan.engine.speculation.offloading import DraftOffloadingReplica

            drafts, fitted = self.drafts.beside_connector(config)
            # Several modules publish blocks later than they are stored, so their numbers count.
            if one_full_group(config) and drafts.rules.prompt_lookahead == 1:
                return DraftOffloadingReplica(
                    fitted, latency, recorder, self._host(config), self.chunk_blocks, *lines, drafts
                )
            from kvplan.engine.speculation.grouped.replica import DraftGroupedReplica

            return DraftGroupedReplica(
                fitted, latency, recorder, self._chunks(), self.chunk_blocks, *lines, drafts
            )
        if one_full_group(config):
            cache = self._host(config)
            return OffloadingReplica(config, latency, recorder, cache, self.chunk_blocks, *lines)
        from kvplan.engine.offloading.grouped.replica import GroupedReplica

        return GroupedReplica(config, latency, recorder, self._chunks(), self.chunk_blocks, *lines)

    def _chunks(self) -> HostChunks:
        from kvplan.engine.offloading.grouped.host import HostChunks

        return HostChunks(self.chunks, self.policy)

    def _host(self, config: EngineConfig) -> HostCache:
        return HostCache(self.chunks, self.chunk_blocks * config.block_size, self.policy)

    @staticmethod
    def check(config: EngineConfig, chunk_blocks: int) -> None:
        """Refuse engines that vLLM's connector is not simulated with, or does not start with.

        Raises:
            UsageError: no prefix cache, another eviction order on the GPU, or a retention interval that is
                not one of whole chunks.
        """
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
        interval = config.retention_interval
        for group in config.groups:
            chunk = group.block_size * chunk_blocks
            if interval and group.kind != "full" and interval % chunk:
                raise UsageError(
                    f"the retention interval of {interval} tokens is no multiple of a {group.kind} group's "
                    f"chunk of {chunk} tokens, and vLLM's offloading connector does not start then",
                    where="tiers.host.blocks_per_chunk",
                    hint="choose another, or leave engine.prefix_cache_retention_interval at 0",
                )
