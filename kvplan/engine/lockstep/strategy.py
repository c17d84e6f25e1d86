"""Data-parallel attention as a strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import simulated_in_segments
from kvplan.engine.lockstep.engine import LockstepEngine
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.engine.hicache.replica import HierarchicalReplica
    from kvplan.engine.hicache.strategy import HierarchicalCache
    from kvplan.engine.lockstep.sglang import SglangLockstepEngine
    from kvplan.engine.offloading.strategy import Offloading
    from kvplan.engine.sglang.config import SglangConfig
    from kvplan.engine.sglang_states.strategy import RecurrentStates
    from kvplan.engine.sglang_windows.strategy import WindowPools
    from kvplan.engine.speculation.strategy import Speculation


@dataclass(frozen=True, slots=True)
class DataParallelAttention:
    """``ranks`` attention ranks in step; ``router`` deals requests to them.

    ``drafts``: of the requests of every rank; None: they have none. ``pool``: of SGLang's ranks, what they
    have beside that of tokens; with drafts these know of it. ``host``: memory below every rank, each with its
    own, which its ``drafts`` and ``pool`` are told.
    """

    ranks: int
    router: str = "least-loaded"
    drafts: Speculation | None = None
    pool: RecurrentStates | WindowPools | None = None
    host: Offloading | HierarchicalCache | None = None
    behind_router: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "data-parallel attention"

    def with_drafts(self, drafts: Speculation) -> DataParallelAttention:
        """The same, with drafts."""
        return replace(self, drafts=drafts)

    def with_pool(self, pool: RecurrentStates | WindowPools) -> DataParallelAttention:
        """The same, with a pool for states or for windows."""
        return replace(self, pool=pool)

    def with_host(self, host: Offloading | HierarchicalCache) -> DataParallelAttention:
        """The same, above host memory of every rank, with the drafts of what is above it."""
        return replace(self, host=host, drafts=self.drafts or host.drafts)

    def _check(self) -> None:
        if self.ranks < 1:
            raise UsageError(f"data-parallel attention needs at least one rank, not {self.ranks}")

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> LockstepEngine:
        """See ``Strategy``.

        Raises:
            UsageError: no ranks, groups that ranks cannot keep, an eviction policy that needs the future.
            UnknownName: no such routing policy.
        """
        self._check()
        if self.host is not None:
            from kvplan.engine.lockstep.offloading import OffloadingRanks
            from kvplan.engine.offloading.strategy import Offloading

            assert isinstance(self.host, Offloading)  # the other is SGLang's
            return OffloadingRanks(self.ranks, self.router, config, latency, recorder, self.host.engine)
        if not simulated_in_segments(config):
            raise UsageError(
                "ranks are not simulated with full attention (or chunks) in blocks of two sizes",
                where="parallel.dp_attention",
                hint="simulate one rank with the rate divided by the number of ranks",
            )
        if config.eviction == "belady":
            raise UsageError(
                "belady looks at the requests to come, which no rank knows",
                where="cache.eviction",
                hint="use lru",
            )
        if self.drafts is None:
            return LockstepEngine(self.ranks, self.router, config, latency, recorder)
        from kvplan.engine.lockstep.drafted import DraftedLockstepEngine

        return DraftedLockstepEngine(self.ranks, self.router, config, latency, recorder, self.drafts)

    def sglang_engine(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder
    ) -> SglangLockstepEngine:
        """See ``Strategy``.

        Raises:
            UsageError: no ranks, another model drafts, or the options do not go with the pool.
            UnknownName: no such routing policy.
        """
        from kvplan.engine.lockstep.sglang import SglangLockstepEngine
        from kvplan.engine.sglang.replica import SglangReplica

        self._check()
        given = self.ranks, self.router, config, latency, recorder
        drafts = self.drafts
        if drafts is not None and not drafts.rules.hash_lookahead:
            raise UsageError(
                "SGLang does not start ranks of data-parallel attention for which another model drafts",
                where="speculative.method",
                hint="use mtp or eagle, or engine.kind vllm",
            )
        if self.host is not None:
            from kvplan.engine.lockstep.hicache import DraftedHierarchicalRanks, HierarchicalRanks

            make = self._hosted(self.host)
            if drafts is None:
                return HierarchicalRanks(*given, make)
            return DraftedHierarchicalRanks(*given, drafts, make)
        if drafts is None:
            return SglangLockstepEngine(
                *given, SglangReplica if self.pool is None else self.pool.sglang_engine
            )
        from kvplan.engine.lockstep.sglang_drafted import DraftedSglangLockstepEngine

        return DraftedSglangLockstepEngine(*given, drafts)

    def _hosted(
        self, host: Offloading | HierarchicalCache
    ) -> Callable[[SglangConfig, LatencyModel, Recorder], HierarchicalReplica]:
        """What makes one of SGLang's ranks above host memory of its own."""
        from kvplan.engine.hicache.strategy import HierarchicalCache

        assert isinstance(host, HierarchicalCache)  # the other is vLLM's
        if self.pool is not None:
            host = host.with_pool(self.pool)
        return (host if self.drafts is None else host.with_drafts(self.drafts)).sglang_engine
