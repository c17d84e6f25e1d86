"""Drafts above SGLang's pools of tokens and sliding windows.

Drafts have places in both pools. Windows go on by what is known to stand, as soon as enough tokens have left
them; what EAGLE's cache knows a token by, the one behind it, it knows of windows, too.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang_windows.index import WindowIndex
from kvplan.engine.sglang_windows.pool import WindowPool
from kvplan.engine.sglang_windows.replica import WindowReplica
from kvplan.engine.sglang_windows.request import WindowRequest
from kvplan.engine.sglang_windows.scheduler import WindowScheduler
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.sglang.batch import DraftedBatch
from kvplan.engine.speculation.sglang.pool import DRAFT_SLOTS, DraftedPool
from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica
from kvplan.engine.speculation.sglang.request import DRAFT_COUNTERS, DraftedRequest
from kvplan.engine.speculation.sglang.scheduler import DraftedSglangScheduler


class DraftedWindowRequest(DraftedRequest, WindowRequest):
    """Counters of one request.

    Attributes:
        decodes: decode batches it was in since it was let in (``decode_batch_idx``).
    """

    __slots__ = (*DRAFT_COUNTERS, "decodes")

    def start_over(self) -> None:
        """As the base class."""
        super().start_over()
        self.decodes = 0


class DraftedWindowPool(DraftedPool, WindowPool):
    """Both pools of one engine instance whose requests have drafts."""

    __slots__ = DRAFT_SLOTS

    def __init__(
        self, config: SglangConfig, windows: SlidingWindows, lookahead: int,
        cache: WindowIndex | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, windows, cache)
        self.begin(lookahead)


class DraftedWindowScheduler(DraftedSglangScheduler, WindowScheduler):
    """Above both pools."""

    request_type = DraftedWindowRequest
    decoding: DraftedBatch
    pool: DraftedWindowPool

    def _decode(self, plan: SglangPlan) -> None:
        """As the base class, after windows have gone on by what is known."""
        pool, windows = self.pool, self.pool.windows
        least = windows.span + windows.interval
        for decoding in self.decoding:
            request = cast(DraftedWindowRequest, decoding)
            computed = request.prompt_tokens + request.outputs - 1
            # Before its first decode its prefill may be in flight, and read what would be given back.
            if request.decodes and computed - least >= request.slid:
                pool.slide(request, computed)
            request.decodes += 1
        super()._decode(plan)


class DraftedWindowReplica(DraftedSglangReplica, WindowReplica):
    """A replica that verifies drafts, whose tokens have places in two pools.

    Args:
        config, latency, recorder, rules, acceptance: as of ``DraftedSglangReplica``.
        windows: the pool for windows.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, *, rules: DraftRules,
        acceptance: Acceptance, windows: SlidingWindows,
    ) -> None:  # fmt: skip
        self.rules, self.acceptance = rules, acceptance
        WindowReplica.__init__(self, config, latency, recorder, windows)

    def make_scheduler(self) -> DraftedWindowScheduler:
        """Above both pools."""
        pool = DraftedWindowPool(self.config, self.windows, self.rules.hash_lookahead)
        made = DraftedWindowScheduler(
            self.config, self.rules, self.acceptance, pool, keep_schedule=self.logging
        )
        self.drafting = self.windowed = made
        return made
