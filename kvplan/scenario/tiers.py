"""From ``tiers``, ``cache.host_memory`` and ``engine.preemption`` to tiers of blocks and their links."""

from __future__ import annotations

from dataclasses import replace

from kvplan.engine.config import EngineConfig
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.tiers.stack import TierSpec
from kvplan.engine.tiers.strategy import Tiers
from kvplan.engine.tiers.swap import Preemption
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.transfer import slower
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario
from kvplan.scenario.schema.tiers import HostTierPart, TiersPart
from kvplan.scenario.tier_links import SECTION, HostLinks, disk_link, host_links
from kvplan.units import format_bytes, format_tokens


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
    host = host_links(scenario, part.host, deployment, block_bytes)
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
        channel = disk_link(part.disk)
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
    host: HostLinks,
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
    explained += _of_each_rank(part, deployment, "an engine core, and a connector of its own")
    if host.put.assumptions() != host.get.assumptions():
        explained += host.put.assumptions()
    return replace(chosen, assumptions=tuple(explained))


def _of_each_rank(part: HostTierPart, deployment: Deployment, what: str) -> list[Assumption]:
    """Whose the memory is, where attention has ranks; ``what`` each of them has."""
    if deployment.parallel.sequence_shards == 1:
        return []
    return [Assumption(f"{SECTION}.host.memory", part.memory, f"of each rank: every one has {what}")]


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
    host = host_links(scenario, part.host, deployment, page_bytes)
    chosen = host_cache(part.host, config, page, deployment.sequence_gpus, host.put, host.get)
    assumed += _of_each_rank(part.host, deployment, "a tree and host pools of its own")
    return replace(chosen, assumptions=(*assumed, *chosen.assumptions))


def _page_bytes(scenario: Scenario, part: TiersPart, deployment: Deployment) -> tuple[int, list[Assumption]]:
    """Bytes of one page of SGLang's pool of tokens on all GPUs that have a sequence."""
    from kvplan.scenario.hicache import page_bytes_of

    size, assumed = _block_bytes(part, deployment)
    found = page_bytes_of(scenario, deployment, size)
    if found != size:
        model = "" if deployment.model is None else deployment.model.name
        shared = _on_each(deployment)
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
    return hicache_flags(part.host, config, page, deployment.sequence_gpus)


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
    """Bytes of one block on all GPUs that have a sequence."""
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
    gpus = deployment.sequence_gpus
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
    return found, [Assumption(where, found, f"a block of {fit.model.name}{_on_each(deployment)}, all layers")]


def _on_each(deployment: Deployment) -> str:
    gpus = deployment.sequence_gpus
    return f" on each of {gpus} GPUs" if gpus > 1 else ""


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
