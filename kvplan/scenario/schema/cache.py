"""The KV cache of one replica."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kvplan.scenario.schema.holding import AllocationPart, check_retention
from kvplan.scenario.schema.part import Bytes, Part, Positive, Tokens
from kvplan.scenario.schema.reuse import PinnedPart

BlockEviction = Literal[
    "lru", "lfu", "fifo", "size-aware", "slru", "s3-fifo", "w-tinylfu", "priority", "tail-first", "belady"
]
"""Policies of the cache of hashed blocks; vLLM itself has the first."""

RadixOption = Literal["lru", "lfu", "slru", "priority", "tlru"]
"""What SGLang's command line takes."""

RadixEviction = Literal["lru", "lfu", "slru", "priority", "tlru", "fifo", "mru", "filo"]
"""What its radix tree knows; the last three only from within."""


class GroupPart(Part):
    """One layer group of the pool; overrides what the model says."""

    kind: Literal["full", "sliding", "chunked", "mamba"] = "full"
    block_size: Positive | None = None
    window: Tokens | None = None


def _unfindable(cache: dict[str, Any]) -> str:
    """The setting under which no prefix is found in the cache, or nothing."""
    allocation = cache.get("allocation", "paged")
    kind = allocation.get("kind") if isinstance(allocation, dict) else getattr(allocation, "kind", allocation)
    if kind in ("slots", "contiguous"):
        return f"allocation {kind}"
    retention = cache.get("retention", "engine")
    if isinstance(retention, str) and retention.strip().casefold() != "engine":
        return f"retention {retention}"
    return ""


class CachePart(Part):
    """The KV cache: number format, blocks, and how prefixes are shared."""

    dtype: str | None = None
    dtype_k: str | None = None
    dtype_v: str | None = None
    block_size: Positive | None = None
    blocks: Annotated[int, Field(strict=True, ge=2, le=1 << 40)] | None = None
    prefix: Literal["hash", "radix", "none"] = "hash"
    eviction: BlockEviction | RadixEviction | None = "lru"
    host_memory: Bytes = 0
    retention: Annotated[str, Field(max_length=64), AfterValidator(check_retention)] = "engine"
    allocation: AllocationPart = AllocationPart()
    groups: Annotated[tuple[GroupPart, ...], Field(min_length=1, max_length=16)] | None = None
    reuse_granularity: Tokens | None = None
    pinned: PinnedPart | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_to_find(cls, data: Any) -> Any:
        """Where blocks cannot be found by their content, ``prefix`` is none unless it is given."""
        if isinstance(data, dict) and "prefix" not in data and _unfindable(data):
            return {**data, "prefix": "none"}
        return data

    @model_validator(mode="after")
    def _prefixes_found(self) -> Self:
        if self.prefix == "hash":
            what = _unfindable({"retention": self.retention, "allocation": self.allocation})
            if what:
                raise ValueError(
                    f"{what}: blocks that are reserved, moved or emptied of tokens cannot be found by their "
                    "content: leave prefix out, or at none"
                )
        return self
