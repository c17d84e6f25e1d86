"""Tiers as a strategy: plain values a scenario is translated to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import one_full_group
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.tiers.replica import TieredReplica
from kvplan.engine.tiers.stack import TierSpec, TierStack, check_sizes
from kvplan.engine.tiers.swap import Preemption
from kvplan.errors import UsageError


@dataclass(frozen=True, slots=True)
class Tiers:
    """Host memory, or host memory and a disk, below the device.

    Attributes:
        block_bytes: bytes of one block on the device, all GPUs of the replica together.
        tiers: one or two, the nearest first.
        preemption: ``recompute``, ``swap``, or ``auto``: whichever is predicted to cost less time.
        prefetch: whether an arriving request's blocks are read from the disk into the host at once.
    """

    behind_router: ClassVar[bool] = True
    asks_once: ClassVar[bool] = True
    block_bytes: int
    tiers: tuple[TierSpec, ...]
    preemption: Preemption = "recompute"
    prefetch: bool = False

    def __post_init__(self) -> None:
        if self.block_bytes < 1:
            raise UsageError(f"a block has {self.block_bytes} bytes", hint="at least 1")
        if not 1 <= len(self.tiers) <= 2:
            raise UsageError(f"{len(self.tiers)} tiers below the device", hint="a host, or a host and a disk")
        check_sizes(self.tiers)
        if self.preemption not in ("recompute", "swap", "auto"):
            raise UsageError(f"unknown way to preempt {self.preemption!r}", hint="recompute, swap or auto")

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "tiers"

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> TieredReplica:
        """One replica above these tiers.

        Raises:
            UsageError: the pool has several layer groups or keeps states; the eviction policy is offline.
        """
        self.check(config)
        stack = TierStack(config.block_size, self.block_bytes, self.tiers)
        return TieredReplica(
            config, latency, recorder, stack, preemption=self.preemption, prefetch=self.prefetch
        )

    @staticmethod
    def check(config: EngineConfig) -> None:
        """Refuse pools that have nothing to offload in blocks.

        Raises:
            UsageError: as ``engine``.
        """
        if not one_full_group(config):
            kinds = " and ".join(dict.fromkeys(group.kind for group in config.groups))
            state = all(group.kind == "mamba" for group in config.groups)
            raise UsageError(
                "a state is overwritten as it grows: there are no blocks of it to offload or to swap"
                if state
                else f"tiers are simulated below one group of full attention; this model has {kinds} layers",
                where="tiers",
                hint="leave the tiers out for this model"
                if state
                else "say tiers.host.connector: offloading for vLLM's own host memory, leave the tiers out, "
                "or --set 'cache.groups=[{kind: full}]' for an approximation",
            )
        if config.eviction == "belady":
            raise UsageError(
                "the offline optimum of one tier says nothing about two: belady is not simulated with tiers",
                where="cache.eviction",
                hint="leave cache.eviction at lru",
            )
