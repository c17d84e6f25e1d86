"""What a GPU and a link are: datasheet peaks, what the driver really gives, and where each number is from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from kvplan.specs.base import ByteCount, Count, Frozen, PositiveFloat, Source, SpecName

PeakDtype = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4", "int4"]


class Interconnect(Frozen):
    """How a GPU reaches its neighbours and its host. Rates are bytes/s in one direction."""

    nvlink_bytes_per_s: PositiveFloat | None = None
    """GPU to GPU fabric (NVLink, xGMI), one direction, all links of one GPU."""
    fabric_gpus: Count | None = None
    """GPUs that the fabric joins: a bridge's two cards, a rack's 72. None: all of a usual machine."""
    pcie_generation: Count | None = None
    pcie_bytes_per_s: PositiveFloat | None = None


class GpuSpec(Frozen):
    """One GPU. ``memory_bytes``: the datasheet's; ``usable_memory_bytes``: what the driver reports."""

    schema_: Literal["kvplan.gpu/1"] = Field("kvplan.gpu/1", alias="schema")
    name: SpecName
    aliases: tuple[str, ...] = ()
    vendor: Literal["nvidia", "amd", "intel", "google", "other"] = "nvidia"
    architecture: str | None = None
    memory_bytes: ByteCount
    usable_memory_bytes: ByteCount
    bandwidth_bytes_per_s: PositiveFloat
    peak_flops: Mapping[PeakDtype, PositiveFloat]
    """Dense peaks in FLOP/s (or op/s for integers), without sparsity."""
    sm_count: Count | None = None
    l2_bytes: ByteCount | None = None
    interconnect: Interconnect = Interconnect()
    tdp_w: PositiveFloat | None = None
    compute_capability: str | None = None
    source: Source
    memory_source: Source | None = None
    """Where ``usable_memory_bytes`` comes from, when it is not the datasheet."""
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _driver_gives_no_more(self) -> Self:
        # "80 GB" cards carry 80 GiB of HBM, so the datasheet's decimal figure is no upper bound by itself.
        if self.usable_memory_bytes > self.memory_bytes * 1.08:
            raise ValueError("usable_memory_bytes exceeds memory_bytes")
        return self


class LinkSpec(Frozen):
    """A path between memories: latency_s + bytes / bandwidth_bytes_per_s per transfer, one direction."""

    schema_: Literal["kvplan.link/1"] = Field("kvplan.link/1", alias="schema")
    name: SpecName
    aliases: tuple[str, ...] = ()
    latency_s: float = Field(ge=0)
    bandwidth_bytes_per_s: PositiveFloat
    source: Source
    notes: tuple[str, ...] = ()
