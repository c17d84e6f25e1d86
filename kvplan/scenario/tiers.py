"""From ``tiers``, ``cache.host_memory`` and ``engine.preemption`` to tiers of blocks and their links."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kvplan.engine.config import EngineConfig
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.tiers.stack import TierSpec
from kvplan.engine.tiers.strategy import Tiers
from kvplan.engine.tiers.swap import Preemption
from kvplan.errors import KvplanError, UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.kv_transfer import wire_ratio
from kvplan.latency.transfer import (
    Channel,
    Transfer,
    device_to_host,
    disk,
    host_to_device,
    network,
    quantized,
    slower,
)
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario
from kvplan.scenario.schema.tiers import DiskTierPart, HostTierPart, TiersPart
from kvplan.units import format_bytes, format_tokens

SECTION = "tiers"


@dataclass(frozen=True, slots=True)
class _Host:
    """The host tier's links, and what a block has there."""

    put: Transfer
    get: Transfer
    stored_bytes: int


def tiers(scenario: Scenario, deployment: Deployment) -> Chosen:
    """The strategy, and what it assumes.

    Raises:
        UsageError: no host tier to swap to, one smaller than a request, nothing to store, or an engine or
            model that tiers do not go with (says which, and why).
        UnknownName: no such link or number format.
    """
    part = _part(scenario)
    if isinstance(deployment.config, SglangConfig):
        return _below_sglang(scenario, part, deployment, deployment.config)
    config = deployment.config
    if part.host.connector is None:
        Tiers.check(config)
    else:
        Offloading.check(config, part.host.blocks_per_chunk or 1)
    if part.host.write == "selective":
        raise UsageError(
            "writing what was inserted twice is SGLang's (write_through_selective)",
            where=f"{SECTION}.host.write",
            hint="use through or back",
        )
    preemption: Preemption = getattr(scenario.engine, "preemption", "recompute")
    if not config.enable_prefix_caching:
        _check_without_cache(scenario, part, preemption)
    block_bytes, assumed = _block_bytes(part, deployment)
    host = _host(scenario, part.host, deployment, block_bytes)
    if part.host.connector is not None:
        return _with_connector(
            scenario, part.host, deployment, config, preemption, block_bytes, host, assumed
        )
    specs = [
        TierSpec(
            "host",
            _blocks(part.host.memory, host.stored_bytes, config, "host"),
            host.stored_bytes,
            host.put,
            host.get,
            part.host.write,
        )
    ]
    explained = [*assumed, *host.get.assumptions()]
    if host.put.assumptions() != host.get.assumptions():
        explained += host.put.assumptions()
    if part.disk is not None:
        channel = _disk(part.disk)
        blocks = _blocks(part.disk.memory, host.stored_bytes, config, "disk")
        specs.append(TierSpec("disk", blocks, host.stored_bytes, channel, channel, part.disk.write))
        explained += channel.assumptions()
    explained.append(
        Assumption(
            f"{SECTION}.copies",
            "one per block",
            "the layers of a block lie side by side; copies run beside computing, one queue per direction",
        )
    )
    strategy = Tiers(block_bytes, tuple(specs), preemption, part.prefetch == "arrival")
    return Chosen(
        strategy,
        tuple(explained),
        _warnings(preemption, part.host, config),
        perturbed=lambda draw: replace(
            strategy,
            tiers=tuple(
                replace(spec, put=slower(spec.put, draw[0]), get=slower(spec.get, draw[0]))
                for spec in strategy.tiers
            ),
        ),
    )


def _with_connector(
    scenario: Scenario,
    part: HostTierPart,
    deployment: Deployment,
    config: EngineConfig,
    preemption: Preemption,
    block_bytes: int,
    host: _Host,
    assumed: list[Assumption],
) -> Chosen:
    if preemption != "recompute":
        raise UsageError(
            f"vLLM with its offloading connector preempts by recomputing, not by {preemption}",
            where="engine.preemption",
            hint="leave preemption at recompute, or leave out tiers.host.connector",
        )
    from kvplan.scenario.offloading import offloading

    chosen = offloading(part, scenario.engine.version, config, block_bytes, host.put, host.get)
    explained = [*assumed, *chosen.assumptions, *host.get.assumptions()]
    ranks = deployment.parallel.sequence_shards
    if ranks > 1:
        text = "of each rank: every one has an engine core, and a connector of its own"
        explained.append(Assumption(f"{SECTION}.host.memory", part.memory, text))
    if host.put.assumptions() != host.get.assumptions():
        explained += host.put.assumptions()
    return replace(chosen, assumptions=tuple(explained))


def _part(scenario: Scenario) -> TiersPart:
    """``tiers``, or what ``cache.host_memory`` alone means."""
    memory = scenario.cache.host_memory
    if scenario.tiers is not None:
        if memory and memory != scenario.tiers.host.memory:
            raise UsageError(
                f"cache.host_memory is {format_bytes(memory)} and tiers.host.memory "
                f"{format_bytes(scenario.tiers.host.memory)}",
                where="cache.host_memory",
                hint="give one of them",
            )
        return scenario.tiers
    if not memory:
        raise UsageError(
            f"preemption {getattr(scenario.engine, 'preemption', None)} needs host memory to swap to, and "
            "there is none",
            where="engine.preemption",
            hint="say for example cache.host_memory: 64GiB, or leave preemption at recompute",
        )
    return TiersPart(host=HostTierPart(memory=memory))


def _below_sglang(
    scenario: Scenario, part: TiersPart, deployment: Deployment, config: SglangConfig
) -> Chosen:
    """SGLang's own host tier."""
    from kvplan.scenario.hicache import check, host_cache, host_page

    check(part, config)
    page_bytes, assumed = _page_bytes(scenario, part, deployment)
    page = host_page(scenario, deployment, config, page_bytes)
    host = _host(scenario, part.host, deployment, page_bytes)
    chosen = host_cache(part.host, config, page, deployment.parallel.gpus, host.put, host.get)
    return replace(chosen, assumptions=(*assumed, *chosen.assumptions))


def _page_bytes(scenario: Scenario, part: TiersPart, deployment: Deployment) -> tuple[int, list[Assumption]]:
    """Bytes of one page of SGLang's pool of tokens on all GPUs of the replica."""
    from kvplan.scenario.hicache import page_bytes_of

    size, assumed = _block_bytes(part, deployment)
    found = page_bytes_of(scenario, deployment, size)
    if found != size:
        model = "" if deployment.model is None else deployment.model.name
        shared = f" on each of {deployment.parallel.gpus} GPUs" if deployment.parallel.gpus > 1 else ""
        text = f"a page of {model}{shared}, all layers without windows"
        assumed = [Assumption(f"{SECTION}.block_bytes", found, text)]
    return found, assumed


def launch_flags(scenario: Scenario, deployment: Deployment) -> str | None:
    """What the engine's command says about its own host tier; None without one."""
    config = deployment.config
    if scenario.tiers is None and not scenario.cache.host_memory:
        return None
    part = _part(scenario)
    if not part.host.memory:
        return None
    if not isinstance(config, SglangConfig):
        from kvplan.scenario.offloading_releases import offloading_flags

        if part.host.connector is None:
            return None
        return offloading_flags(part.host, scenario.engine.version, config.block_size)
    from kvplan.scenario.hicache import hicache_flags, host_page

    page_bytes, _ = _page_bytes(scenario, part, deployment)
    page = host_page(scenario, deployment, config, page_bytes)
    return hicache_flags(part.host, config, page, deployment.parallel.gpus)


def _check_without_cache(scenario: Scenario, part: TiersPart, preemption: str) -> None:
    cache = scenario.cache
    if cache.allocation.kind != "paged" or cache.retention != "engine":
        paged = cache.allocation.kind == "paged"
        other = f"cache.retention {cache.retention}" if paged else f"cache.allocation {cache.allocation.kind}"
        raise UsageError(
            f"{other} and tiers are not simulated together",
            where=SECTION if scenario.tiers is not None else "cache.host_memory",
            hint="simulate them one after the other, and compare",
        )
    if preemption == "recompute":
        raise UsageError(
            "without a prefix cache and with recomputed preemptions nothing is ever stored in a tier",
            where="cache.prefix",
            hint="turn the prefix cache on (cache.prefix: hash), or say engine.preemption: swap",
        )
    if part.disk is not None:
        raise UsageError(
            "swapped requests are kept in the host; without a prefix cache nothing comes down to the disk",
            where="tiers.disk",
            hint="leave tiers.disk out, or turn the prefix cache on (cache.prefix: hash)",
        )


def _block_bytes(part: TiersPart, deployment: Deployment) -> tuple[int, list[Assumption]]:
    """Bytes of one block on all GPUs of the replica."""
    where = f"{SECTION}.block_bytes"
    fit = deployment.fit
    if fit is None:
        if part.block_bytes is None:
            raise UsageError(
                "without a model and a GPU the bytes of a block are unknown",
                where=where,
                hint="name 'model' and 'gpu', or say for example block_bytes: 2097152",
            )
        return part.block_bytes, []
    if part.block_bytes is not None:
        raise UsageError(
            f"the bytes of a block follow from {fit.model.name}", where=where, hint="leave it out"
        )
    gpus = _gpus(deployment)
    if fit.serving.kind == "sglang":
        found = fit.binding.capacity.block_bytes * gpus
    else:
        found = fit.binding.pool.layout(fit.max_model_len).block_bytes * gpus
    if found < 1:
        raise UsageError(
            f"{fit.model.name} keeps no cache in blocks",
            where=SECTION,
            hint="leave the tiers out for this model",
        )
    shared = f" on each of {gpus} GPUs" if gpus > 1 else ""
    return found, [Assumption(where, found, f"a block of {fit.model.name}{shared}, all layers")]


def _gpus(deployment: Deployment) -> int:
    """GPUs that have a sequence's cache: those of a rank, where attention has ranks."""
    return deployment.parallel.gpus // deployment.parallel.sequence_shards


def _blocks(memory: int, stored_bytes: int, config: EngineConfig, name: str) -> int:
    """Blocks of a tier.

    Raises:
        UsageError: the longest request does not fit in it.
    """
    blocks = memory // stored_bytes
    longest = -(-config.max_model_len // config.block_size)
    if blocks < longest:
        raise UsageError(
            f"the {name} tier of {format_bytes(memory)} is smaller than a request: it holds "
            f"{format_tokens(blocks * config.block_size) if blocks else 'no'} tokens, and a request may have "
            f"{format_tokens(config.max_model_len)}",
            where=f"{SECTION}.{name}.memory",
            hint=f"give it {format_bytes(longest * stored_bytes)} or more, or lower engine.max_model_len",
        )
    return blocks


# -- links ------------------------------------------------------------------------------------------------


def _host(scenario: Scenario, part: HostTierPart, deployment: Deployment, block_bytes: int) -> _Host:
    gpu, gpus = deployment.gpu, _gpus(deployment)
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
        down = device_to_host(gpu, link=part.link, profile=profile, lanes=gpus).given(
            part.latency, part.bandwidth
        )
        up = host_to_device(gpu, link=part.link, profile=profile, lanes=gpus).given(
            part.latency, part.bandwidth
        )
    put, get, stored = down, up, block_bytes
    if part.dtype is not None:
        ratio = _ratio(part.dtype, deployment)
        assert gpu is not None
        put, get = quantized(down, gpu, ratio=ratio), quantized(up, gpu, ratio=ratio)
        stored = math.ceil(block_bytes * ratio)
    return _Host(put, get, stored)


def _named(link: str, lanes: int, tier: str) -> Channel:
    try:
        return network(link, lanes=lanes) if tier == "host" else disk(link, lanes=lanes)
    except KvplanError as exc:
        exc.where = f"{SECTION}.{tier}.link"
        raise


def _disk(part: DiskTierPart) -> Channel:
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


def _warnings(preemption: str, host: HostTierPart, config: EngineConfig) -> tuple[str, ...]:
    found = []
    if preemption != "recompute":
        found.append(
            f"preemption {preemption}: vLLM's v1 engine preempts by recomputing only; swapping is what its "
            "v0 and other engines do"
        )
    if host.write == "back" and config.enable_prefix_caching:
        found.append("write back: vLLM's own offloading writes through")
    if host.dtype is not None:
        found.append(
            f"KV that comes back from the tiers was stored in {host.dtype}: what that costs in accuracy is "
            "not simulated"
        )
    return tuple(found)
