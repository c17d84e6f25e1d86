"""One engine whose requests have drafts."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.frontend import TOO_MANY_BLOCKS, blocks_alone
from kvplan.engine.instance import one_full_group
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.replica import Replica
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.drafting import Drafting
from kvplan.engine.speculation.metrics import SECTION, metrics
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.scheduler import DraftScheduler, HybridDraftScheduler
from kvplan.traces.request import Request


class Verifying(Replica):
    """A vLLM engine that verifies drafts; how many tokens a step yields is known when it is delivered.

    Attributes:
        drafting: its scheduler.
    """

    hears_every_step = True
    drafting: Drafting
    _drafted_s = 0.0
    """Until then the device makes drafts."""

    def launch(self, plan: StepPlan, clock: float, device_free: float) -> float:
        """As the base class; where outputs leave first, it ends for whoever waits before drafts are made."""
        end = super().launch(plan, clock, max(device_free, self._drafted_s))
        if plan.batch.scheduled_tokens and self.outputs_first:
            self._drafted_s = end
            end -= plan.batch.drafting_s
        return end

    @property
    def outputs_first(self) -> bool:
        """Whether a step's outputs leave before drafts are made."""
        return self.drafting.rules.outputs_first

    def rejection(self, request: Request) -> str | None:
        """As the base class; a pool that holds a request but not its drafts would never let it in again."""
        return super().rejection(request) or self.overflow(request)

    def overflow(self, request: Request) -> str | None:
        """Why the pool would never let a request in again, or ``None``."""
        return TOO_MANY_BLOCKS if self.blocks_alone(request) > self.config.usable_blocks else None

    def blocks_alone(self, request: Request) -> int:
        """Blocks that a request may hold at once when it runs alone, with its drafts and a state for each."""
        drafts = self.drafting.rules.tokens
        tokens = self.drafting.placed(request.prompt_tokens + request.output_tokens - 1 + drafts)
        states = sum(group.kind == "mamba" for group in self.config.groups)
        return blocks_alone(tokens, self.config) + drafts * states

    def close(self) -> None:
        """Bring the totals up to date, and report what became of drafts."""
        super().close()
        self.recorder.sections[SECTION] = metrics(self.drafting.drafted)


class DraftReplica(Verifying):
    """One that computes whatever its requests need itself."""

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        *,
        rules: DraftRules,
        acceptance: Acceptance,
    ) -> None:
        self.rules, self.acceptance = rules, acceptance
        super().__init__(config, latency, recorder)

    def make_scheduler(self) -> DraftScheduler | HybridDraftScheduler:
        """One of one group, or of several."""
        kind = DraftScheduler if one_full_group(self.config) else HybridDraftScheduler
        scheduler = kind(self.config, self.rules, self.acceptance, keep_schedule=self.logging)
        self.drafting = scheduler
        return scheduler
