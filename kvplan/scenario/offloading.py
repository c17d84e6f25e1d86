"""From ``tiers.host.connector`` to vLLM's offloading connector."""

from __future__ import annotations

from dataclasses import replace

from kvplan.engine.config import EngineConfig
from kvplan.engine.offloading.strategy import Offloading
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.transfer import Transfer, slower
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.offloading_releases import check_release, offloading_flags, other_rules
from kvplan.scenario.schema.tiers import HostTierPart
from kvplan.units import format_bytes

CONNECTOR = "tiers.host.connector"

PAGE_BYTES = 4096
"""A chunk takes whole pages of the memory that workers share (``SharedOffloadRegion``)."""


def offloading(
    part: HostTierPart, version: str, config: EngineConfig, block_bytes: int, put: Transfer, get: Transfer
) -> Chosen:
    """The strategy, and what it assumes.

    Raises:
        UsageError: the host holds no chunk, or an engine that the connector is not simulated with.
    """
    check_release(version, part, config)
    blocks, policy = part.blocks_per_chunk or 1, part.eviction_policy or "lru"
    Offloading.check(config, blocks)
    chunk_bytes = -(-block_bytes * blocks // PAGE_BYTES) * PAGE_BYTES
    chunks = part.memory // chunk_bytes
    if not chunks:
        raise UsageError(
            f"the host tier of {format_bytes(part.memory)} is smaller than a chunk, which takes "
            f"{format_bytes(chunk_bytes)}",
            where="tiers.host.memory",
            hint=f"give it {format_bytes(chunk_bytes)} or more, or lower tiers.host.blocks_per_chunk",
        )
    strategy = Offloading(block_bytes, chunks, put, get, blocks, policy)
    told = Assumption(
        CONNECTOR,
        offloading_flags(part, version, config.block_size),
        "vLLM's OffloadingConnector; only prompts are stored",
    )
    return Chosen(
        strategy,
        (told,),
        other_rules(version),
        perturbed=lambda draw: replace(
            strategy, put=slower(strategy.put, draw[0]), get=slower(strategy.get, draw[0])
        ),
    )
