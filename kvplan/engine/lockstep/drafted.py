"""Ranks whose requests have drafts, which all of them make together or none does.

A step's drafts are made by passes that ranks take part in together like in the step itself, also those that
run an empty batch. vLLM leaves them out only where no rank has a request that could use them
(``DPSyncState.skip_drafts``); an empty batch does not agree to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kvplan.engine.config import EngineConfig
from kvplan.engine.lockstep.engine import LockstepEngine
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Metric, Recorder
from kvplan.engine.speculation.drafted import Drafted
from kvplan.engine.speculation.metrics import SECTION, metrics
from kvplan.engine.speculation.replica import DraftReplica
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation


def with_drafts(
    sections: Mapping[str, list[Metric]], tokens: int, counts: Iterable[Drafted]
) -> dict[str, list[Metric]]:
    """Sections of ranks with one of what became of drafts, of them all.

    Args:
        tokens: drafts of a step. counts: of every rank.
    """
    found = Drafted(tokens)
    for drafted in counts:
        found.add(drafted)
    others = {name: told for name, told in sections.items() if not name.startswith(f"{SECTION} ")}
    return {**others, SECTION: metrics(found)}


class DraftsTogether(LockstepEngine):
    """vLLM's ranks, all of which make drafts in a step or none.

    Attributes:
        rules: of the drafts of every rank.
    """

    rules: DraftRules

    def _launch(self, plans: Sequence[StepPlan]) -> float:
        """As the base class; where outputs leave first, it ends for whoever waits before drafts are made."""
        running = [plan.batch for plan in plans if plan.batch.scheduled_tokens]
        if len(running) < len(plans) or any(batch.drafting for batch in running):
            for batch in running:
                batch.drafting = self.rules.tokens
        end = super()._launch(plans)
        return end - self.drafting_s if running and self.rules.outputs_first else end


class DraftedLockstepEngine(DraftsTogether):
    """Ranks that compute whatever their requests need themselves.

    Args:
        ranks, router, config, latency, recorder: as of ``LockstepEngine``.
        drafts: of every rank.
    """

    def __init__(
        self, ranks: int, router: str, config: EngineConfig, latency: LatencyModel, recorder: Recorder,
        drafts: Speculation,
    ) -> None:  # fmt: skip
        self.rules = drafts.rules
        super().__init__(ranks, router, config, latency, recorder, drafts.engine)

    def sections(self) -> dict[str, list[Metric]]:
        """As the base class; drafts of all ranks are counted together."""
        counts = [rank.drafting.drafted for rank in self.ranks if isinstance(rank, DraftReplica)]
        return with_drafts(super().sections(), self.rules.tokens, counts)
