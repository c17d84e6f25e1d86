"""Which release of vLLM has an offloading connector, what turns it on there, and whose rules are simulated.

Read from its sources, 0.10.2 to 0.33: the connector came with 0.11.0, a size for it with 0.11.1, whose
backend had to be named until 0.14. It counts a chunk in tokens before 0.26, leaves what was generated where
it is from 0.23 on, and keeps groups apart from 0.22 on.
"""

from __future__ import annotations

import json
import shlex

from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import one_full_group
from kvplan.errors import UsageError
from kvplan.scenario.schema.tiers import HostTierPart
from kvplan.sizing.serving import LATEST, OFFLOADS_GROUPS, parse_version
from kvplan.units import GIB

HAS_SIZE = (0, 11, 1)
"""``--kv-offloading-size`` is there from here on."""
NATIVE = (0, 14, 0)
"""vLLM from here on takes its own connector for a size, unless another backend is named."""
PROMPTS_ONLY = (0, 23, 0)
"""Only prompts are stored from here on."""
COUNTS_BLOCKS = (0, 26, 0)
"""A chunk is said in blocks from here on."""


def check_release(version: str, part: HostTierPart, config: EngineConfig) -> None:
    """Refuse releases without the connector, that make one group of all, or that cannot be told its chunks.

    Raises:
        UsageError: such a release.
    """
    parsed = parse_version(version)
    if parsed < HAS_SIZE:
        raise UsageError(
            f"vLLM {version} has no --kv-offloading-size",
            where="engine.version",
            hint=f"use {_text(HAS_SIZE)} or newer, or leave out tiers.host.connector",
        )
    if not one_full_group(config) and parsed < OFFLOADS_GROUPS:
        kinds = " and ".join(sorted({group.kind for group in config.groups}))
        raise UsageError(
            f"vLLM {version} turns its hybrid cache manager off where it offloads, and does not keep {kinds} "
            "groups apart then; that is not simulated",
            where="engine.version",
            hint=f"use {_text(OFFLOADS_GROUPS)} or newer, leave out tiers.host.connector, or, for windows "
            "alone, --set 'cache.groups=[{kind: full}]'",
        )
    sizes = {group.block_size for group in config.groups}
    if (part.blocks_per_chunk or 1) > 1 and len(sizes) > 1 and parsed < COUNTS_BLOCKS:
        raise UsageError(
            f"vLLM {version} counts a chunk in tokens, which groups with blocks of "
            f"{' and '.join(map(str, sorted(sizes)))} tokens do not have in common",
            where="tiers.host.blocks_per_chunk",
            hint=f"leave it at 1, or use {_text(COUNTS_BLOCKS)} or newer",
        )


def other_rules(version: str) -> tuple[str, ...]:
    """What to know of a release whose connector is not the one that is simulated."""
    parsed = parse_version(version)
    newest = LATEST["vllm"]
    if parsed[: len(newest)] >= newest:
        return ()
    told = f"the offloading connector decides as that of vLLM {_text(newest)} does, not as {version}'s"
    return (told + ("" if parsed >= PROMPTS_ONLY else ", which stores outputs, too"),)


def offloading_flags(part: HostTierPart, version: str, block_tokens: int) -> str:
    """What ``vllm serve`` takes for it; the total of all ranks, as vLLM counts.

    Args:
        block_tokens: of one block.
    """
    parsed = parse_version(version)
    given: dict[str, object] = {}
    blocks = part.blocks_per_chunk or 1
    if blocks > 1:
        if parsed >= COUNTS_BLOCKS:
            given["blocks_per_chunk"] = blocks
        else:
            given["block_size"] = blocks * block_tokens
    if part.eviction_policy not in (None, "lru"):
        given["eviction_policy"] = part.eviction_policy
    found = f"--kv-offloading-size {str(part.memory / GIB).removesuffix('.0')}"
    if parsed < NATIVE:
        found += " --kv-offloading-backend native"
    if given:
        config = {
            "kv_connector": "OffloadingConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": given,
        }
        found += f" --kv-transfer-config {shlex.quote(json.dumps(config, separators=(',', ':')))}"
    return found


def _text(version: tuple[int, ...]) -> str:
    major, minor, *patch = version
    return ".".join(str(part) for part in (major, minor, *(patch if any(patch) else ())))
