"""Drafts on an engine whose prompts come from elsewhere (``remote``), as vLLM's scheduler has both.

- Blocks are known by their own tokens only, and the last one of a hit is computed again: vLLM keeps its older
  hashes where a connector is (``DraftRules.with_connector``). What was dropped may come from elsewhere.
- A load gets blocks for what it brings, none for drafts: these follow with its first step. It begins only if
  places for that step are left beside what the others need for theirs (``room``).
- Where everything has come, the last token is computed again. Nobody has made drafts for it, and it takes
  part in its first step with as many placeholders, none of which can stand, where nobody's prompt is computed
  in that step.
- With overlapping steps a request may end while it is in the step in flight, which expected fewer of its
  drafts to stand: then its blocks are free when that step has ended, like those of a client who gives up.
"""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.remote.plan import FencedPlan
from kvplan.engine.remote.replica import RemoteReplica
from kvplan.engine.remote.scheduler import RemoteScheduler
from kvplan.engine.remote.source import KvSource
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.drafting import Drafting
from kvplan.engine.speculation.replica import Verifying
from kvplan.engine.speculation.request import DraftedRequest, DraftPlan
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.scheduler import DraftScheduler
from kvplan.traces.request import Request


class DraftLoading(RemoteScheduler, Drafting):
    """Loads and drafts, whatever the cache is like; ``rules`` are those beside a connector."""

    _newest: FencedPlan | None = None
    """The last step that computes something."""

    @property
    def room(self) -> int:
        """See the base class."""
        return self.rules.room

    def schedule(self) -> StepPlan:
        """See the base class."""
        plan = super().schedule()
        if plan.batch.scheduled_tokens:
            assert isinstance(plan, DraftPlan)
            self._newest = plan
        return plan

    def begin(self, plan: StepPlan, request: LiveRequest, hit_tokens: int, tokens: int) -> None:
        """As the base class; whoever is let in with a part of its prompt needs blocks for the rest."""
        super().begin(plan, request, hit_tokens, tokens)
        if request.computed < request.num_tokens:
            self.prefills.append(request)

    def _admit_loaded(self, plan: StepPlan, request: LiveRequest, tokens: int) -> None:
        super()._admit_loaded(plan, request, tokens)
        if request.computed >= request.num_tokens:
            self.prefills.append(request)  # its load counts until the step is planned

    def preemptible(self, request: LiveRequest) -> bool:
        """See the base class."""
        return not self._still_written(request)

    def give_back(self, request: LiveRequest) -> None:
        """As the base class, when no step can write into them any more."""
        if self._still_written(request):
            assert self._newest is not None
            self.fenced[request] = self._newest
            return
        super().give_back(request)

    def give_back_late(self, request: LiveRequest) -> None:
        """See the base class; the step that this one waited for has ended."""
        super().give_back(request)

    def _fence(self, request: LiveRequest) -> FencedPlan | None:
        return None  # ``give_back`` knows

    def _still_written(self, request: LiveRequest) -> bool:
        assert isinstance(request, DraftedRequest)
        return self.config.async_scheduling and request.in_flight > 0


class DraftRemoteScheduler(DraftLoading, DraftScheduler):
    """With one group of full attention."""

    def __init__(
        self,
        config: EngineConfig,
        source: KvSource,
        rules: DraftRules,
        acceptance: Acceptance,
        *,
        keep_schedule: bool = False,
    ) -> None:
        DraftScheduler.__init__(self, config, rules, acceptance, keep_schedule=keep_schedule)
        self.connect(source)


class Loading(Verifying, RemoteReplica):
    """A ``RemoteReplica`` whose requests have drafts, whatever brings it its scheduler."""

    def blocks_alone(self, request: Request) -> int:
        """As the base class, or those of a load beside which a step with drafts has its places."""
        return max(super().blocks_alone(request), self._loaded_blocks(self.known_tokens(request)))

    def _loaded_blocks(self, tokens: int) -> int:
        """Blocks of all groups that have to be free for a load of so many tokens."""
        rules, blocks = self.drafting.rules, 0
        for group in self.config.groups:
            if group.kind == "mamba":
                blocks += 1 + rules.tokens
                continue
            size = group.block_size
            held = -(-tokens // size)
            if group.window:
                held = min(held, -(-(group.window - 1) // size) + 1)
            blocks += held - (-rules.room // size)
        return blocks

    def known_tokens(self, request: Request) -> int:
        """Tokens that a load of it may bring at most."""
        return request.prompt_tokens + request.output_tokens - 1
