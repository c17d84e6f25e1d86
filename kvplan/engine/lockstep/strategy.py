"""Data-parallel attention as a strategy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import one_full_group
from kvplan.engine.lockstep.engine import LockstepEngine
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.engine.lockstep.sglang import SglangLockstepEngine
    from kvplan.engine.sglang.config import SglangConfig
    from kvplan.engine.speculation.strategy import Speculation


@dataclass(frozen=True, slots=True)
class DataParallelAttention:
    """``ranks`` attention ranks in step; ``router`` deals requests to them.

    ``drafts``: of the requests of every rank; None: they have none.
    """

    ranks: int
    router: str = "least-loaded"
    drafts: Speculation | None = None

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "data-parallel attention"

    def with_drafts(self, drafts: Speculation) -> DataParallelAttention:
        """The same, with drafts."""
        return replace(self, drafts=drafts)

    def _check(self) -> None:
        if self.ranks < 1:
            raise UsageError(f"data-parallel attention needs at least one rank, not {self.ranks}")

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> LockstepEngine:
        """See ``Strategy``.

        Raises:
            UsageError: no ranks, a pool of several layer groups, an eviction policy that needs the future.
            UnknownName: no such routing policy.
        """
        self._check()
        if not one_full_group(config):
            kinds = ", ".join(group.kind for group in config.groups)
            raise UsageError(
                f"data-parallel attention is simulated for models with full attention only, not for layer "
                f"groups {kinds}",
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
            UsageError: no ranks, or another model drafts.
            UnknownName: no such routing policy.
        """
        from kvplan.engine.lockstep.sglang import SglangLockstepEngine

        self._check()
        if self.drafts is None:
            return SglangLockstepEngine(self.ranks, self.router, config, latency, recorder)
        if not self.drafts.rules.hash_lookahead:
            raise UsageError(
                "SGLang does not start ranks of data-parallel attention for which another model drafts",
                where="speculative.method",
                hint="use mtp or eagle, or engine.kind vllm",
            )
        from kvplan.engine.lockstep.sglang_drafted import DraftedSglangLockstepEngine

        return DraftedSglangLockstepEngine(self.ranks, self.router, config, latency, recorder, self.drafts)
