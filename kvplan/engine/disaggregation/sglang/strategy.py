"""SGLang's disaggregation as a strategy: what a scenario fixes, and the engine it makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.sglang.engine import SglangPoolsEngine
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.payload import NO_PAYLOAD, StatePayload
from kvplan.engine.disaggregation.strategy import PoolPlan, check_block_sizes
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.engine.speculation.strategy import Speculation


@dataclass(frozen=True, slots=True)
class SglangDisaggregation:
    """Prefill and decode on separate SGLang servers.

    Args:
        prefill, decode: the pools.
        route: stages from a prefill to a decode instance, one of which is the link.
        block_bytes: KV bytes of a page as stored, over all layers and GPUs of an instance.
        options: of the decode servers.
        drafts: what both pools draft with; None: nothing.
        payload: what is sent beside pages.
        host: host memory below every prefill server; None: none.
    """

    route: tuple[Stage, ...]
    block_bytes: int
    prefill: PoolPlan
    decode: PoolPlan
    options: DecodeOptions
    drafts: Speculation | None = None
    payload: StatePayload = NO_PAYLOAD
    host: HierarchicalCache | None = None
    holds_on: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "disaggregation"

    def with_drafts(self, drafts: Speculation) -> SglangDisaggregation:
        """The same, with drafts."""
        return replace(self, drafts=drafts)

    @property
    def asks_once(self) -> bool:
        """Unless a pool has a clock of its own, or ranks."""
        return self.prefill.asks_once and self.decode.asks_once

    def pools(self, config: SglangConfig) -> tuple[EngineConfig | SglangConfig, ...]:
        """The options of every instance, or of every rank of those, when those of the deployment are
        ``config``."""
        return tuple(
            plan.config or config for plan in (self.prefill, self.decode) for _ in range(plan.members)
        )

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> SglangPoolsEngine:
        """Not below vLLM.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "these are SGLang's prefill and decode servers", where="engine.kind", hint="use sglang"
        )

    def sglang_engine(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder
    ) -> SglangPoolsEngine:
        """See ``Strategy``.

        Raises:
            UsageError: no instances, pools of different page sizes, a queue with priorities or a limit,
                drafts of another model, or above a pool for states or for windows, options that do not go
                with such a pool, or host memory below no radix cache that goes on in it.
            UnknownName: no such routing policy.
        """
        pools = self.prefill.pool("prefill", config, latency), self.decode.pool("decode", config, latency)
        check_block_sizes(pools)
        prefill, decode = pools
        for pool in pools:
            _check_queue(pool.sglang)
        # A decode server has no radix cache unless it is told to (``handle_pd_disaggregation``).
        cached = self.options.enable_radix_cache
        if self.host is not None:
            self.host.check(prefill.sglang)
        decode.config = replace(decode.sglang, disable_radix_cache=not cached)
        if cached and (self.drafts is not None or decode.beside is not None):
            raise UsageError(
                "a decode server's radix cache is not simulated with drafts, nor of models with pools for "
                "sliding windows or recurrent states",
                where="disaggregation.decode.enable_radix_cache",
                hint="leave it out",
            )
        kind: Callable[..., SglangPoolsEngine] = partial(SglangPoolsEngine, payload=self.payload)
        if self.drafts is not None:
            _check_drafts(self.drafts)
            from kvplan.engine.speculation.sglang.pools import SglangDraftingPools

            kind = partial(SglangDraftingPools, self.drafts)
        return kind(
            prefill, decode, recorder, route=self.route, block_bytes=self.block_bytes, options=self.options,
            host=self.host,
        )  # fmt: skip


def _check_drafts(drafts: Speculation) -> None:
    """Refuse drafts that SGLang's decode servers cannot begin with, or that are not simulated on them."""
    if not drafts.rules.hash_lookahead:
        raise UsageError(
            "SGLang's decode servers have nothing to begin with where another model drafts: only EAGLE's "
            "first draft comes with a cache",
            where="speculative.method",
            hint="use mtp or eagle, or simulate one server that does both",
        )
    if drafts.states is not None or drafts.windows is not None:
        raise UsageError(
            "drafts above pools for recurrent states or for windows are not simulated on SGLang's prefill "
            "and decode servers",
            where="speculative",
            hint="leave one of the two out, or simulate one server that does both",
        )


def _check_queue(config: SglangConfig) -> None:
    """Refuse queues that were not compared with those of SGLang's servers."""
    asked = {
        "schedule_policy": config.schedule_policy not in ("fcfs", "lpm"),
        "enable_priority_scheduling": config.enable_priority_scheduling,
        "max_queued_requests": config.max_queued_requests is not None,
        "min_free_slots_delay": config.least_free > 0,
    }
    if any(asked.values()):
        raise UsageError(
            "priorities, orders other than fcfs and lpm, and limits of SGLang's queue are not simulated with "
            "prefill and decode servers",
            where=", ".join(f"engine.{name}" for name, is_asked in asked.items() if is_asked),
            hint="leave these options out, or simulate one server that does both",
        )
