"""From ``tiers.host.connector`` to vLLM's offloading connector, and back to the flags that turn it on."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import one_full_group
from kvplan.engine.offloading.strategy import Offloading
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.transfer import Transfer, slower
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.schema.tiers import HostTierPart
from kvplan.sizing.serving import OFFLOADS_GROUPS, parse_version
from kvplan.units import GIB, format_bytes

CONNECTOR = "tiers.host.connector"

PAGE_BYTES = 4096
"""A chunk takes whole pages of the memory that workers share (``SharedOffloadRegion``)."""


def offloading(
    part: HostTierPart, config: EngineConfig, block_bytes: int, put: Transfer, get: Transfer
) -> Chosen:
    """The strategy, and what it assumes.

    Raises:
        UsageError: the host holds no chunk, or an engine that the connector is not simulated with.
    """
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
        CONNECTOR, offloading_flags(part), "vLLM's OffloadingConnector; only prompts are stored"
    )
    return Chosen(
        strategy,
        (told,),
        perturbed=lambda draw: replace(
            strategy, put=slower(strategy.put, draw[0]), get=slower(strategy.get, draw[0])
        ),
    )


def check_version(version: str, config: EngineConfig) -> None:
    """Refuse versions of vLLM that make one group of all where they offload.

    Raises:
        UsageError: there are several groups, or one that is not of full attention.
    """
    if one_full_group(config) or parse_version(version) >= OFFLOADS_GROUPS:
        return
    kinds = " and ".join(sorted({group.kind for group in config.groups}))
    oldest = ".".join(str(part) for part in OFFLOADS_GROUPS[:2])
    raise UsageError(
        f"vLLM {version} turns its hybrid cache manager off where it offloads, and does not keep {kinds} "
        "groups apart then; that is not simulated",
        where="engine.version",
        hint=f"use {oldest} or newer, leave out tiers.host.connector, or, for windows alone, "
        "--set 'cache.groups=[{kind: full}]'",
    )


def offloading_flags(part: HostTierPart) -> str:
    """What ``vllm serve`` takes for it; the total of all ranks, as vLLM counts."""
    given: dict[str, object] = {}
    if part.blocks_per_chunk not in (None, 1):
        given["blocks_per_chunk"] = part.blocks_per_chunk
    if part.eviction_policy not in (None, "lru"):
        given["eviction_policy"] = part.eviction_policy
    found = f"--kv-offloading-size {str(part.memory / GIB).removesuffix('.0')}"
    if given:
        config = {
            "kv_connector": "OffloadingConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": given,
        }
        found += f" --kv-transfer-config {shlex.quote(json.dumps(config, separators=(',', ':')))}"
    return found
