"""What an engine was started with: the options that decide scheduling, under the engine's own names."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd, lcm
from typing import Literal, TypeAlias

from kvplan.errors import UsageError

GroupKind: TypeAlias = Literal["full", "sliding", "chunked", "mamba"]
Policy: TypeAlias = Literal["fcfs", "priority"]


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers that share one block table.

    Attributes:
        kind: ``full`` (also MLA: same decisions), ``sliding``, ``chunked`` (local attention within chunks,
            as in Llama 4) or ``mamba`` (recurrent state).
        block_size: tokens a block of this group covers; of a state group, tokens between two states that can
            be kept (without prefix caching there is one state a request, whatever the size).
        window: tokens a sliding layer sees, itself included, or the length of a chunk; 0 for other kinds.
        drafts: layers that draft are among them (vLLM's ``is_eagle_group``). Groups that are otherwise alike
            are looked up together, so it does not count where groups are compared.
    """

    kind: GroupKind
    block_size: int
    window: int = 0
    drafts: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in ("full", "sliding", "chunked", "mamba"):
            raise UsageError(
                f"unknown cache group kind {self.kind!r}", hint="use full, sliding, chunked or mamba"
            )
        if self.block_size < 1:
            raise UsageError(f"block size {self.block_size} must be at least 1")
        if (self.kind in ("sliding", "chunked")) != (self.window > 0):
            raise UsageError(
                f"a {self.kind} cache group has window {self.window}",
                hint="a sliding or chunked group needs a window of at least 1, the others none",
            )

    def admission_cap(self, in_flight_tokens: int, max_model_len: int) -> int | None:
        """Most blocks the admission gate counts for one request; None: as many as its tokens fill.

        A window may begin inside a block, hence one more; a chunk is taken to begin with a block
        (``max_admission_blocks_per_request``).
        """
        if self.kind == "sliding":
            return -(-min(self.window - 1 + in_flight_tokens, max_model_len) // self.block_size) + 1
        if self.kind == "chunked":
            return -(-min(self.window + in_flight_tokens, max_model_len) // self.block_size)
        return None


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Options of one vLLM engine instance; defaults are vLLM's.

    ``num_blocks`` counts the null block, as vLLM's ``num_gpu_blocks`` does: one fewer is usable. Where full
    attention is the only group, ``block_size`` is that of its blocks.
    ``retention_interval`` is vLLM's ``prefix_cache_retention_interval``: 0 publishes sliding and state
    blocks at replay boundaries only, ``None`` everywhere, k once every k tokens. ``eviction`` is a name of
    ``engine.replacement``; vLLM itself has ``lru`` only.
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
    eviction: str = "lru"
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
        if self.eviction != "lru":
            from kvplan.engine.replacement.catalog import ensure_known

            ensure_known(self.eviction)
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
        if len(self.groups) == 1 and self.groups[0].kind == "full":
            object.__setattr__(self, "block_size", self.groups[0].block_size)
        if self.enable_prefix_caching:
            self._check_block_sizes()

    def _check_block_sizes(self) -> None:
        """Refuse combinations whose hits vLLM finds in ways that are not simulated."""
        sizes = [group.block_size for group in self.groups]
        finest, alignment = gcd(*sizes), self.hit_alignment
        for group in self.groups:
            if group.kind == "mamba" and group.block_size != finest:
                raise UsageError(
                    f"a state group of block size {group.block_size} beside blocks of {finest} tokens has "
                    "hits inside a block, which are not simulated",
                    hint="give all groups the state's block size, as vLLM does, or turn prefix caching off",
                )
            if group.kind == "chunked" and group.block_size != alignment:
                raise UsageError(
                    f"a chunked group of block size {group.block_size} beside hits aligned to {alignment} "
                    "tokens cannot be cached (vLLM refuses it)",
                    hint="give all groups the same block size",
                )
        interval = self.retention_interval
        sparse = any(group.kind in ("sliding", "mamba") for group in self.groups)
        if sparse and interval and interval % alignment:
            raise UsageError(
                f"prefixes retained every {interval} tokens: that must be a multiple of the block of the "
                f"scheduler, {alignment}",
                where="engine.prefix_cache_retention_interval",
                hint=f"use {-(-interval // alignment) * alignment}, or leave it at 0",
            )

    @property
    def hit_alignment(self) -> int:
        """Tokens of the scheduler's block: a cached prefix ends on a multiple of every group's block."""
        return lcm(*(group.block_size for group in self.groups))

    @property
    def drops_blocks(self) -> bool:
        """Whether some group does not use the last block that it finds, as layers that draft are in it."""
        return any(group.drafts for group in self.groups)

    @property
    def state_block_size(self) -> int | None:
        """Tokens between recurrent states that can be kept; None where none are."""
        if not self.enable_prefix_caching:
            return None
        return next((group.block_size for group in self.groups if group.kind == "mamba"), None)

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
