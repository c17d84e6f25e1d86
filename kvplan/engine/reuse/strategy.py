"""What a scenario can ask for about prefix reuse, and what it does not go with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import one_full_group
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.reuse.pins import PinRule
from kvplan.engine.reuse.replica import ReuseReplica
from kvplan.engine.strategy import Engine
from kvplan.errors import UsageError


@dataclass(frozen=True, slots=True)
class PrefixReuse:
    """Reuse in units of ``granularity`` tokens (None: the block size), and pinned prefixes.

    Attributes:
        rules: which prefixes are pinned; none without any.
        memory: most of the pool, as a share, that pins may hold.
    """

    behind_router: ClassVar[bool] = True
    asks_once: ClassVar[bool] = True
    one_by_one: ClassVar[bool] = True
    granularity: int | None = None
    rules: tuple[PinRule, ...] = ()
    memory: float = 0.2

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "cache.pinned" if self.rules else "cache.reuse_granularity"

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> Engine:
        """One engine with this reuse.

        Raises:
            UsageError: there is no prefix cache of one group of full attention to reuse, the units do not
                consist of blocks or do not fit, or the pins can hold nothing.
        """
        if not config.enable_prefix_caching:
            raise UsageError(
                f"{self.name} is about a prefix cache, and there is none", where="cache.prefix",
                hint="say cache.prefix: hash",
            )  # fmt: skip
        if not one_full_group(config):
            raise UsageError(
                f"{self.name} is simulated for one group of full attention", where=self.name,
                hint="use a model with full attention, or --set 'cache.groups=[{kind: full}]'",
            )  # fmt: skip
        if config.eviction == "belady":
            raise UsageError(
                f"the optimum, belady, is one for plain blocks: not with {self.name}", where="cache.eviction",
                hint="use an online policy",
            )  # fmt: skip
        unit = self._unit(config)
        budget = int(self.memory * config.usable_blocks)
        for number, rule in enumerate(self.rules):
            _check(rule, number, unit, config.block_size, budget)
        return ReuseReplica(config, latency, recorder, unit=unit, rules=self.rules, budget=budget)

    def _unit(self, config: EngineConfig) -> int:
        tokens, size = self.granularity, config.block_size
        if tokens is None:
            return 1
        if tokens < size or tokens % size:
            raise UsageError(
                f"a reuse granularity of {tokens:,} tokens is not a multiple of the block size, {size:,}",
                where="cache.reuse_granularity",
                hint=f"use {max(1, round(tokens / size)) * size:,}",
            )
        unit = tokens // size
        if unit > config.usable_blocks:
            raise UsageError(
                f"a reuse granularity of {tokens:,} tokens is more than the pool of "
                f"{config.usable_blocks:,} blocks holds",
                where="cache.reuse_granularity",
                hint="lower it, or give the pool more blocks",
            )
        return unit


def _check(rule: PinRule, number: int, unit: int, block_size: int, budget: int) -> None:
    """Refuse a rule that could never pin anything."""
    where = f"cache.pinned.prefixes[{number}].tokens"
    blocks = rule.tokens // (unit * block_size) * unit
    if not blocks:
        raise UsageError(
            f"a pinned prefix of {rule.tokens:,} tokens is shorter than the {unit * block_size:,} tokens "
            "that are reused together",
            where=where,
            hint="raise it",
        )
    if blocks > budget:
        raise UsageError(
            f"a pinned prefix of {rule.tokens:,} tokens is {blocks:,} blocks, more than the {budget:,} that "
            "pins may hold",
            where=where,
            hint="raise cache.pinned.memory, or lower tokens",
        )
