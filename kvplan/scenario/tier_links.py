"""The ways between a GPU, its host and a disk below it, from a scenario."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kvplan.errors import KvplanError, UsageError
from kvplan.latency.kv_transfer import wire_ratio
from kvplan.latency.transfer import (
    Channel,
    Transfer,
    device_to_host,
    disk,
    host_to_device,
    network,
    quantized,
)
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario
from kvplan.scenario.schema.tiers import DiskTierPart, HostTierPart

SECTION = "tiers"


@dataclass(frozen=True, slots=True)
class HostLinks:
    """The host tier's links, and what a block has there."""

    put: Transfer
    get: Transfer
    stored_bytes: int


def host_links(scenario: Scenario, part: HostTierPart, deployment: Deployment, block_bytes: int) -> HostLinks:
    """The host tier's.

    Args:
        block_bytes: of a block on the device, on all GPUs that have a sequence.

    Raises:
        UsageError: neither a GPU nor a link is named, or a number format that is not smaller.
        UnknownName: no such link or number format.
    """
    gpu, gpus = deployment.gpu, deployment.sequence_gpus
    put: Transfer
    get: Transfer
    if gpu is None:
        if part.link is None and part.bandwidth is None:
            raise UsageError(
                "without a GPU the link to the host is unknown",
                where=f"{SECTION}.host.link",
                hint="name 'gpu', or say for example link: pcie5-x16",
            )
        both = _named(part.link or "pcie5-x16", gpus, "host").given(part.latency, part.bandwidth)
        down, up = replace(both, name="device to host"), replace(both, name="host to device")
    else:
        profile = None
        if scenario.latency.model == "profile" and part.link is None:
            profile = scenario.latency.parameters().get("name")
        if part.link is not None:
            _named(part.link, gpus, "host")
        down, up = (
            way(gpu, link=part.link, profile=profile, lanes=gpus).given(part.latency, part.bandwidth)
            for way in (device_to_host, host_to_device)
        )
    put, get, stored = down, up, block_bytes
    if part.dtype is not None:
        ratio = _ratio(part.dtype, deployment)
        assert gpu is not None
        put, get = quantized(down, gpu, ratio=ratio), quantized(up, gpu, ratio=ratio)
        stored = math.ceil(block_bytes * ratio)
    return HostLinks(put, get, stored)


def _named(link: str, lanes: int, tier: str) -> Channel:
    try:
        return network(link, lanes=lanes) if tier == "host" else disk(link, lanes=lanes)
    except KvplanError as exc:
        exc.where = f"{SECTION}.{tier}.link"
        raise


def disk_link(part: DiskTierPart) -> Channel:
    """The disk's.

    Raises:
        UnknownName: no such link.
    """
    return _named(part.link, part.lanes, "disk").given(part.latency, part.bandwidth)


def _ratio(dtype: str, deployment: Deployment) -> float:
    """Bytes stored per byte of cache."""
    where = f"{SECTION}.host.dtype"
    fit = deployment.fit
    if fit is None:
        raise UsageError(
            f"how many bytes a cache has in {dtype} follows from a model and a GPU, which the scenario does "
            "not name",
            where=where,
            hint="name both, or say fewer block_bytes",
        )
    try:
        ratio = wire_ratio(fit.model, fit.kv_format, dtype)
    except KvplanError as exc:
        exc.where = where
        raise
    if ratio >= 1:
        raise UsageError(
            f"{dtype} is not smaller than the cache's own {fit.kv_format.name}",
            where=where,
            hint="leave it out: blocks are then stored as they are",
        )
    return ratio
