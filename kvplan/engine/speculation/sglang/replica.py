"""An SGLang engine that verifies drafts."""

from __future__ import annotations

from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.metrics import SECTION, metrics
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.sglang.scheduler import DraftedSglangScheduler
from kvplan.traces.request import Request


class DraftedSglangReplica(SglangReplica):
    """A replica whose every step is planned, as how many tokens it yields is known when it is delivered."""

    def __init__(
        self,
        config: SglangConfig,
        latency: LatencyModel,
        recorder: Recorder,
        *,
        rules: DraftRules,
        acceptance: Acceptance,
    ) -> None:
        self.rules, self.acceptance = rules, acceptance
        super().__init__(config, latency, recorder)

    def make_scheduler(self) -> DraftedSglangScheduler:
        """The scheduler of this instance."""
        self.drafting = DraftedSglangScheduler(
            self.config, self.rules, self.acceptance, keep_schedule=self.logging
        )
        return self.drafting

    def rejection(self, request: Request) -> str | None:
        """As the base class; SGLang aborts who is alone and finds no places for drafts."""
        reason = super().rejection(request)
        if reason is None and request.output_tokens > 1:
            page = self.config.page_size
            most = request.prompt_tokens + request.output_tokens - 2 + self.drafting.decoding.reserve
            if -(-most // page) * page > self.config.pool_tokens:
                return "the pool does not hold it with its drafts"
        return reason

    def quiet(self) -> bool:
        return False

    def close(self) -> None:
        """Bring the totals up to date, and report what became of drafts."""
        super().close()
        self.recorder.sections[SECTION] = metrics(self.drafting.drafted)
