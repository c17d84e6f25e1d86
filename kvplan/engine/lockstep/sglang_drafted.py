"""SGLang's ranks whose requests have drafts: prompts and answers are not computed in the same step.

If a rank has a batch of prompts, those without one run an empty batch beside it, whoever decodes there
(``get_next_batch_to_run`` gathers twice then). ``SGLANG_ENABLE_DP_SPEC_PREFILL_COORDINATION``, which is off,
would have them decode.
"""

from __future__ import annotations

from collections.abc import Callable

from kvplan.engine.lockstep.drafted import with_drafts
from kvplan.engine.lockstep.sglang import SglangLockstepEngine
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Metric, Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica
from kvplan.engine.speculation.strategy import Speculation


class DraftedSglangLockstepEngine(SglangLockstepEngine):
    """Ranks in step that verify drafts.

    Args:
        ranks, router, config, latency, recorder: as of ``SglangLockstepEngine``.
        drafts: of every rank.
        make: a rank; None: one that has nothing else.
    """

    waits_for_prefills = True

    def __init__(
        self, ranks: int, router: str, config: SglangConfig, latency: LatencyModel, recorder: Recorder,
        drafts: Speculation,
        make: Callable[[SglangConfig, LatencyModel, Recorder], SglangReplica] | None = None,
    ) -> None:  # fmt: skip
        self.drafts = drafts
        super().__init__(ranks, router, config, latency, recorder, make or drafts.sglang_engine)

    def sections(self) -> dict[str, list[Metric]]:
        """As the base class; drafts of all ranks are counted together."""
        counts = [rank.drafting.drafted for rank in self.ranks if isinstance(rank, DraftedSglangReplica)]
        return with_drafts(super().sections(), self.drafts.rules.tokens, counts)
