"""Memory below the device: a host tier, and a disk below it."""

from typing import Literal, Self

from pydantic import model_validator

from kvplan.scenario.schema.part import Bandwidth, Bytes, Lanes, Latency, Part, Positive


class HostTierPart(Part):
    """Host memory of one replica; with ``disaggregation``, of each of SGLang's prefill servers; with
    ``parallel.dp_attention``, of each rank.

    ``link`` is a link spec; left out, it is the way the GPU reaches its host (as timed, where a profile timed
    it). ``bandwidth`` and ``latency`` replace its figures. ``dtype`` is the number format blocks are stored
    in, where that is smaller than the cache's own. ``write`` is when they are: as they are computed, as they
    leave the device, or (SGLang only, with the others its ``--hicache-write-policy``) with their second use.

    ``connector: offloading`` is vLLM's own way (``--kv-offloading-size``), rule by rule: ``blocks_per_chunk``
    (1) and ``eviction_policy`` (LRU) are its options.
    """

    memory: Bytes
    link: str | None = None
    bandwidth: Bandwidth | None = None
    latency: Latency | None = None
    write: Literal["through", "selective", "back"] = "through"
    dtype: str | None = None
    connector: Literal["offloading"] | None = None
    blocks_per_chunk: Positive | None = None
    eviction_policy: Literal["lru", "arc"] | None = None

    @model_validator(mode="after")
    def _what_the_connector_has(self) -> Self:
        if self.connector is None:
            for name in ("blocks_per_chunk", "eviction_policy"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is an option of the connector: say connector: offloading, too")
            return self
        if self.write == "back":
            raise ValueError("vLLM's offloading connector writes through: leave write at through")
        if self.dtype is not None:
            raise ValueError(
                "vLLM's offloading connector stores blocks as they are: leave out dtype, or connector"
            )
        return self


class DiskTierPart(Part):
    """A disk, or remote memory, below the host: ``lanes`` of them side by side.

    Blocks are stored in the host's number format.
    """

    memory: Bytes
    link: str = "nvme-gen4"
    lanes: Lanes = 1
    bandwidth: Bandwidth | None = None
    latency: Latency | None = None
    write: Literal["through", "back"] = "back"


class TiersPart(Part):
    """The tiers, and whether what the disk has of a prompt is read when the request arrives.

    ``block_bytes`` (all GPUs of the replica together) is for scenarios without a model.
    """

    host: HostTierPart
    disk: DiskTierPart | None = None
    prefetch: Literal["none", "arrival"] = "none"
    block_bytes: Positive | None = None

    @model_validator(mode="after")
    def _nothing_below_the_connector(self) -> Self:
        if self.host.connector is not None and self.disk is not None:
            raise ValueError(
                "vLLM's offloading connector is simulated with host memory alone: leave out disk or connector"
            )
        return self

    @model_validator(mode="after")
    def _something_to_prefetch(self) -> Self:
        if self.prefetch != "none" and self.disk is None:
            raise ValueError(
                "prefetch reads from the disk tier, and there is none: leave prefetch at none, or say disk"
            )
        return self
