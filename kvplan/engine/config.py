"""What an engine was started with: the options that decide scheduling, under the engine's own names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from kvplan.errors import UsageError

GroupKind: TypeAlias = Literal["full", "sliding", "mamba"]
Policy: TypeAlias = Literal["fcfs", "priority"]


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers that share one block table.

    Attributes:
        kind: ``full`` (also MLA: same decisions), ``sliding`` or ``mamba`` (recurrent state).
        block_size: tokens a block of this group covers.
        window: tokens a sliding layer sees, itself included; 0 for the other kinds.
    """

    kind: GroupKind
    block_size: int
    window: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("full", "sliding", "mamba"):
            raise UsageError(f"unknown cache group kind {self.kind!r}", hint="use full, sliding or mamba")
        if self.block_size < 1:
            raise UsageError(f"block size {self.block_size} must be at least 1")
        if (self.kind == "sliding") != (self.window > 0):
            raise UsageError(
                f"a {self.kind} cache group has window {self.window}",
                hint="a sliding group needs a window of at least 1, the others none",
            )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Options of one vLLM engine instance; defaults are vLLM's.

    ``num_blocks`` counts the null block, as vLLM's ``num_gpu_blocks`` does: one fewer is usable.
    ``retention_interval`` is vLLM's ``prefix_cache_retention_interval``: 0 publishes sliding and state
    blocks at replay boundaries only, ``None`` everywhere, k once every k tokens.
    """

    num_blocks: int
    block_size: int = 16
    max_model_len: int = 131_072
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    policy: Policy = "fcfs"
    long_prefill_token_threshold: int = 0
    long_prefill_adaptive: bool = False
    watermark: float = 0.0
    scheduler_reserve_full_isl: bool = True
    prefill_schedule_interval: int = 1
    async_scheduling: bool = True
    retention_interval: int | None = 0
    groups: tuple[CacheGroup, ...] = field(default=())

    def __post_init__(self) -> None:
        for name, least in (
            ("num_blocks", 2),
            ("block_size", 1),
            ("max_model_len", 1),
            ("max_num_seqs", 1),
            ("max_num_batched_tokens", 1),
            ("long_prefill_token_threshold", 0),
            ("prefill_schedule_interval", 1),
        ):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"engine option {name} is {value}; it must be at least {least}")
        if self.policy not in ("fcfs", "priority"):
            raise UsageError(f"unknown scheduling policy {self.policy!r}", hint="use fcfs or priority")
        if not 0.0 <= self.watermark < 1.0:
            raise UsageError(f"engine option watermark is {self.watermark}; it must be in [0, 1)")
        if self.retention_interval is not None and self.retention_interval < 0:
            raise UsageError(f"engine option retention_interval is {self.retention_interval}; it is negative")
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise UsageError(
                f"without chunked prefill max_num_batched_tokens ({self.max_num_batched_tokens}) must hold a "
                f"whole sequence of max_model_len ({self.max_model_len})",
                hint="raise max_num_batched_tokens, lower max_model_len or turn chunked prefill on",
            )
        if not self.groups:
            object.__setattr__(self, "groups", (CacheGroup("full", self.block_size),))

    @property
    def usable_blocks(self) -> int:
        """Blocks that can hold tokens: all but the null block."""
        return self.num_blocks - 1

    @property
    def watermark_blocks(self) -> int:
        """Blocks a new request must leave free when others are running."""
        return int(self.watermark * self.num_blocks)

    @property
    def max_in_flight_tokens(self) -> int:
        """Tokens that can be scheduled and not yet finished: two batches when scheduling runs ahead."""
        return self.max_num_batched_tokens * (2 if self.async_scheduling else 1)
