"""Disaggregation as a strategy: what a scenario fixes, and the engine it makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.cargo import Sizes
from kvplan.engine.disaggregation.engine import DisaggregatedEngine
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.pool import Pool, Ranks
from kvplan.engine.instance import one_full_group
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig
    from kvplan.engine.sglang_states.strategy import RecurrentStates
    from kvplan.engine.sglang_windows.strategy import WindowPools
    from kvplan.engine.speculation.strategy import Speculation


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """One pool; options and clock are those of the deployment where they are None. ``ranks``: of each
    instance, where it has some; ``config`` is then that of a rank. ``beside``: what SGLang's instances have
    beside their tokens."""

    instances: int = 1
    router: str = "round-robin"
    config: EngineConfig | SglangConfig | None = None
    latency: LatencyModel | None = None
    ranks: Ranks | None = None
    beside: RecurrentStates | WindowPools | None = None

    @property
    def members(self) -> int:
        """Engines of all its instances: these, or their ranks."""
        return self.instances * (1 if self.ranks is None else self.ranks.count)

    @property
    def asks_once(self) -> bool:
        """Whether it asks the deployment's clock, and only for its steps: ranks ask it for what they do
        together, too."""
        return self.latency is None and self.ranks is None

    def pool(self, name: str, config: EngineConfig | SglangConfig, latency: LatencyModel) -> Pool:
        """The pool, called ``name``, where the deployment's options and clock are these.

        Raises:
            UsageError: it has no instances.
            UnknownName: no such routing policy.
        """
        if self.instances < 1:
            raise UsageError(
                f"the {name} pool has {self.instances} instances; it needs at least one",
                where=f"disaggregation.{name}.instances",
            )
        return Pool(
            self.config or config, self.latency or latency, self.instances, self.router, self.ranks,
            self.beside,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Disaggregation:
    """Prefill and decode on separate instances.

    Args:
        prefill, decode: the pools.
        route: stages from a prefill to a decode instance, one of which is the link.
        block_bytes: KV bytes of a block as stored, over all layers and GPUs of an instance.
        state_bytes: of a recurrent state, of a group of layers that keep some.
        layers: layers the model has, for streaming layer by layer; 0 sends whole caches.
        first_token: which one the client sees.
        drafts: what both pools draft with; None: nothing.
        handover: of prompts that a prefill instance would preempt while they end.
    """

    route: tuple[Stage, ...]
    block_bytes: int
    prefill: PoolPlan = PoolPlan()
    decode: PoolPlan = PoolPlan()
    layers: int = 0
    first_token: FirstToken = FirstToken.DECODE
    drafts: Speculation | None = None
    handover: Handover = Handover.KEPT
    state_bytes: int = 0
    holds_on: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "disaggregation"

    def with_drafts(self, drafts: Speculation) -> Disaggregation:
        """The same, with drafts."""
        return replace(self, drafts=drafts)

    @property
    def asks_once(self) -> bool:
        """Unless a pool has a clock of its own, or ranks."""
        return self.prefill.asks_once and self.decode.asks_once

    def pools(self, config: EngineConfig) -> tuple[EngineConfig | SglangConfig, ...]:
        """The options of every instance, or of every rank of those, when those of the deployment are
        ``config``."""
        return tuple(
            plan.config or config for plan in (self.prefill, self.decode) for _ in range(plan.members)
        )

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> DisaggregatedEngine:
        """See ``Strategy``.

        Raises:
            UsageError: no instances, an eviction policy that needs the future, pools of different layer
                groups, groups that are not sent in this way, ranks whose caches are sent layer by layer.
            UnknownName: no such routing policy.
        """
        pools = self.prefill.pool("prefill", config, latency), self.decode.pool("decode", config, latency)
        before, after = pools
        for pool in pools:
            _check_eviction(pool.options)
        check_block_sizes(pools)
        self._check_groups(before.options, after.options)
        if self.layers and any(pool.ranks is not None for pool in pools):
            raise UsageError(
                "caches of data-parallel ranks that are sent layer by layer are not simulated",
                where="disaggregation.streaming",
                hint="leave it out: the cache is sent whole, as NIXL does",
            )
        kind: Callable[..., DisaggregatedEngine] = DisaggregatedEngine
        if self.drafts is not None:
            from kvplan.engine.speculation.pools import DraftingPools

            kind = partial(DraftingPools, self.drafts)
        return kind(
            before,
            after,
            recorder,
            route=self.route,
            layers=self.layers,
            sizes=Sizes(self.block_bytes, self.state_bytes),
            first_token=self.first_token,
            handover=self.handover,
        )

    def _check_groups(self, prefill: EngineConfig, decode: EngineConfig) -> None:
        """Refuse what vLLM's connectors do not send, or what is not simulated.

        Raises:
            UsageError: says what, and why.
        """
        if one_full_group(prefill) and one_full_group(decode):
            return
        kinds = {group.kind for group in prefill.groups}
        refused = (
            (
                prefill.groups != decode.groups, "disaggregation",
                "the pools keep their layers in different groups, and a cache is sent group by group",
                "give both pools the same groups",
            ),
            (
                bool(self.layers) and bool(kinds & {"sliding", "chunked"}), "disaggregation.streaming",
                "vLLM's MoRIIO connector does not write layers with windows or chunks: it refuses to start",
                "say streaming: whole, as its NIXL connector does",
            ),
            (
                bool(self.layers), "disaggregation.streaming",
                "recurrent states that are written layer by layer are not simulated", "say streaming: whole",
            ),
            (
                "mamba" in kinds and self.first_token is FirstToken.PREFILL, "disaggregation.first_token",
                "where layers keep recurrent states no prefill instance has a first token to give",
                "use decode",
            ),
            (
                self.drafts is not None and self.drafts.rules.drops_block and "chunked" in kinds,
                "speculative", "vLLM keeps local chunks as full attention beside layers that draft",
                "say cache.groups=[{kind: full}], or use another speculative.method",
            ),
        )  # fmt: skip
        for applies, where, message, hint in refused:
            if applies:
                raise UsageError(message, where=where, hint=hint)


def check_block_sizes(pools: tuple[Pool, Pool]) -> None:
    """Refuse pools that cut caches differently.

    Raises:
        UsageError: they do.
    """
    sizes = {pool.config.block_size for pool in pools}
    if len(sizes) > 1:
        raise UsageError(
            f"the pools have blocks of {' and '.join(map(str, sorted(sizes)))} tokens; caches are sent "
            "block by block",
            where="disaggregation",
            hint="give both pools the same block size",
        )


def _check_eviction(config: EngineConfig) -> None:
    if config.eviction == "belady":
        raise UsageError(
            "belady looks at the requests to come, which no instance of a pool knows",
            where="cache.eviction",
            hint="use lru, or belady without disaggregation",
        )
