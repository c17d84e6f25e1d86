"""One engine whose requests have drafts."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import one_full_group
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.replica import Replica
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.drafting import Drafting
from kvplan.engine.speculation.metrics import SECTION, metrics
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.scheduler import DraftScheduler, HybridDraftScheduler
from kvplan.traces.request import Request


class DraftReplica(Replica):
    """A vLLM engine that verifies drafts; how many tokens a step yields is known when it is delivered."""

    hears_every_step = True
    scheduler: Drafting

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        *,
        rules: DraftRules,
        acceptance: Acceptance,
    ) -> None:
        super().__init__(config, latency, recorder)
        kind = DraftScheduler if one_full_group(config) else HybridDraftScheduler
        self.scheduler = kind(config, rules, acceptance, keep_schedule=self.logging)

    def rejection(self, request: Request) -> str | None:
        """As the base class; a pool that holds a request but not its drafts would never let it in again."""
        reason = super().rejection(request)
        scheduler, most = self.scheduler, request.prompt_tokens + request.output_tokens - 1
        if reason is None and isinstance(scheduler, DraftScheduler):
            blocks = scheduler.blocks_of(most + scheduler.rules.tokens)
            return "needs more blocks than the pool has" if blocks > self.config.usable_blocks else None
        return reason

    def prompt_blocks_of(self, request: Request) -> int:
        """As the base class, in blocks of the scheduler."""
        return -(-request.prompt_tokens // self.scheduler.block_size)

    def cached_blocks_of(self, request: Request) -> int:
        """As the base class, in blocks of the scheduler, and as this engine knows blocks."""
        return self.scheduler.found_blocks(request)

    def close(self) -> None:
        """Bring the totals up to date, and report what became of drafts."""
        super().close()
        self.recorder.sections[SECTION] = metrics(self.scheduler.drafted)
