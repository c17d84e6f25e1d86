"""Ways of holding blocks, as a scenario asks for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from kvplan.engine.blocks import BlockPool
from kvplan.engine.config import EngineConfig
from kvplan.engine.holding.dropping import Dropping
from kvplan.engine.holding.holder import Holder
from kvplan.engine.holding.laws import Law
from kvplan.engine.holding.placed import Contiguous, GrowthRule, Reserve, Slots
from kvplan.engine.holding.replica import HoldingReplica, ObservedReplica
from kvplan.engine.holding.space import Fit
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.strategy import Engine
from kvplan.errors import UsageError


@dataclass(frozen=True, slots=True)
class PagedReport:
    """The plain engine, with fragmentation reported."""

    asks_once: ClassVar[bool] = True
    one_by_one: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "cache.allocation paged"

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> Engine:
        """One deployment.

        Raises:
            UsageError: several layer groups, or the clairvoyant eviction policy.
        """
        _ensure_one_group(self.name, config)
        if config.eviction == "belady":
            raise UsageError(
                "belady is simulated without a report of fragmentation", where="cache.allocation.report"
            )
        return ObservedReplica(config, latency, recorder)


@dataclass(frozen=True, slots=True)
class TokenDropping:
    """Requests keep what a law keeps."""

    law: Law

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return f"cache.retention {self.law.name}"

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> Engine:
        """One deployment.

        Raises:
            UsageError: prefix caching, several layer groups, or a budget that is smaller than a block.
        """
        law = self.law

        def holder(config: EngineConfig, pool: BlockPool) -> Holder:
            return Dropping(config, pool, law)

        return _held(self.name, config, latency, recorder, holder)


@dataclass(frozen=True, slots=True)
class SlotAllocation:
    """A slot per request, reserved when it is admitted."""

    reserve: Reserve = "max"
    fit: Fit = "first"

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "cache.allocation slots"

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> Engine:
        """One deployment.

        Raises:
            UsageError: prefix caching, several layer groups, or a slot larger than the pool.
        """
        slot = -(-config.max_model_len // config.block_size)
        if self.reserve == "max" and slot > config.usable_blocks:
            raise UsageError(
                f"a slot of max_model_len ({config.max_model_len:,} tokens, {slot:,} blocks) is larger than "
                f"the pool ({config.usable_blocks:,} blocks): no request could ever run",
                where="cache.allocation",
                hint="lower engine.max_model_len, or reserve: pow2 or oracle",
            )

        def holder(config: EngineConfig, pool: BlockPool) -> Holder:
            return Slots(config, pool, self.reserve, self.fit)

        return _held(self.name, config, latency, recorder, holder)


@dataclass(frozen=True, slots=True)
class ContiguousGrowth:
    """A contiguous region per request that grows with its tokens."""

    rule: GrowthRule
    fit: Fit = "first"

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "cache.allocation contiguous"

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> Engine:
        """One deployment.

        Raises:
            UsageError: prefix caching, or several layer groups.
        """

        def holder(config: EngineConfig, pool: BlockPool) -> Holder:
            return Contiguous(config, pool, self.rule, self.fit)

        return _held(self.name, config, latency, recorder, holder)


def _held(
    name: str,
    config: EngineConfig,
    latency: LatencyModel,
    recorder: Recorder,
    holder: Callable[[EngineConfig, BlockPool], Holder],
) -> Engine:
    _ensure_one_group(name, config)
    return HoldingReplica(config, latency, recorder, holder)


def _ensure_one_group(name: str, config: EngineConfig) -> None:
    if len(config.groups) == 1 and config.groups[0].kind == "full":
        return
    kinds = ", ".join(dict.fromkeys(group.kind for group in config.groups))
    raise UsageError(
        f"{name} is simulated on one group of full attention; this pool has layers of kind {kinds}",
        where="cache.groups",
        hint="--set 'cache.groups=[{kind: full}]' treats all layers alike",
    )
