"""The oracle of SGLang's scheduler above a pool of recurrent states.

Read from the source of 0.5.23 (``HybridReqToTokenPool``, ``MambaComponent``,
``_mamba_radix_cache_v2_req_prepare_for_extend``, ``_mamba_prefix_cache_update``): where a state is kept is
written down as the step that keeps it is delivered, and not worked out afterwards.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.recorder import Metric
from kvplan.engine.reference.radix import Seen, TokenTree
from kvplan.engine.reference.sglang import ReferenceSglangScheduler
from kvplan.engine.reference.sglang_budget import Budget
from kvplan.engine.reference.sglang_state import SglangPlan, SglangState
from kvplan.engine.reference.state_tree import StateTokenTree
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.metrics import SECTION, StateFigures
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.traces.request import Request


class RecurrentState(SglangState):
    """One request that has slots for states."""

    def __init__(self, request: Request, tree: TokenTree) -> None:
        super().__init__(request, tree)
        self.slots = 0
        self.tracked = 0
        """Tokens behind which its last state was kept (``mamba_last_track_seqlen``); 0: nowhere."""
        self.branch = 0
        """``mamba_branching_seqlen``."""


class ReferenceStateScheduler(ReferenceSglangScheduler):
    """Queues, tokens, slots and tree of one engine.

    Args:
        config: engine options.
        rules: of its states.
    """

    state_class = RecurrentState
    tree: StateTokenTree

    def __init__(self, config: SglangConfig, rules: StateRules) -> None:
        self.rules = rules
        super().__init__(config)
        self.slots_held = self.peak_held = self.peak_used = 0
        self.passed_tokens = self.cut_short = 0

    def make_tree(self) -> StateTokenTree:
        """As the base class."""
        return StateTokenTree(self.config.page_size, self.config.leaf_key)

    def sections(self) -> dict[str, list[Metric]]:
        """As the base class."""
        figures = StateFigures(
            slots=self.rules.slots, each=1 + self.rules.spares(self.config),
            peak_held=self.peak_held, peak_used=self.peak_used, cached=len(self.tree.recency),
            evicted=self.tree.states_evicted, orphaned=self.tree.orphaned,
            matched=self.passed_tokens, hits=self.hit_tokens, cut_short=self.cut_short,
        )  # fmt: skip
        return {SECTION: figures.metrics()}

    # -- slots ------------------------------------------------------------------------------------------

    @property
    def free_slots(self) -> int:
        """Slots in which no state is stored."""
        return self.rules.slots - len(self.tree.recency) - self.slots_held

    def _make_slots(self, count: int) -> None:
        if count > self.free_slots:
            self.free += self.tree.evict_states(count - self.free_slots)
        assert count <= self.free_slots

    def _claim(self, state: RecurrentState, count: int) -> None:
        self.slots_held += count
        state.slots += count
        self.peak_held = max(self.peak_held, self.slots_held)
        self._note_use()

    def _note_use(self) -> None:
        self.peak_used = max(self.peak_used, self.slots_held + len(self.tree.recency))

    def _give_slots(self, state: RecurrentState) -> None:
        self.slots_held -= state.slots
        state.slots = 0

    # -- prefill ----------------------------------------------------------------------------------------

    def _hold(self, state: SglangState, seen: Seen) -> int:
        mark = super()._hold(state, seen)
        if seen.usable:
            # What was found is copied into a slot of its own.
            self._make_slots(1)
            self._claim(cast(RecurrentState, state), 1)
        return mark

    def _add_one(self, state: SglangState, budget: Budget, batch: list[SglangState]) -> str:
        verdict = super()._add_one(state, budget, batch)
        if state.holding is None:
            self._give_slots(cast(RecurrentState, state))
        return verdict

    def _take_in(self, state: SglangState, seen: Seen, mark: int) -> None:
        passed = seen.passed
        if state.cached_tokens < 0:
            self.passed_tokens += passed
            self.cut_short += passed > seen.usable
        super()._take_in(state, seen, mark)
        grid = self.rules.grid(self.config)
        cast(RecurrentState, state).branch = passed // grid * grid

    def _allocate_extend(self, plan: SglangPlan) -> None:
        states = cast("list[RecurrentState]", plan.extends)
        spares = self.rules.spares(self.config)
        missing = {state: 1 + spares - state.slots for state in states}
        self._make_slots(sum(missing.values()))
        for state, count in missing.items():
            self._claim(state, count)
        super()._allocate_extend(plan)
        if spares:
            for state in states:
                self._track_prefill(state)

    def _track_prefill(self, state: RecurrentState) -> None:
        """One state a step: behind its last whole chunk, or where later prompts will part from this one."""
        grid = self.rules.grid(self.config)
        places = range(state.prefix + grid, state.extend_end + 1, grid)
        if places:
            state.tracked = state.branch if state.branch in places else places[-1]

    # -- results ----------------------------------------------------------------------------------------

    def deliver(self, plan: SglangPlan) -> list[SglangState]:
        """As the base class; decoding keeps a state every so many tokens, but not in mixed batches."""
        if not plan.extends and self.rules.spares(self.config):
            track = self.rules.track(self.config)
            for decoded in plan.decodes:
                if decoded.holding is not None and plan.after[decoded] % track == 0:
                    cast(RecurrentState, decoded).tracked = plan.after[decoded]
        return super().deliver(plan)

    def _checkpoint(self, state: SglangState, tokens: int) -> None:
        if not self.caching:
            return
        state = cast(RecurrentState, state)
        length = state.tracked if self.rules.spare else tokens
        state.tracked = 0
        if length:
            self._make_slots(1)
            self._publish(state, length)

    def _publish(self, state: RecurrentState, length: int) -> None:
        """``checkpoint_into_tree``."""
        held = state.held
        present, node, _ = self.tree.publish(held.content, length, held.priority, held.counted)
        self.free += present - held.shared
        self.tree.unlock(held.node)
        self.tree.lock(node)
        held.node = node
        held.shared = length // self.config.page_size * self.config.page_size
        held.counted = max(held.counted, held.shared)
        self._note_use()

    def _finish(self, state: SglangState) -> None:
        state = cast(RecurrentState, state)
        # The state goes to the tree with its slot.
        self._give_slots(state)
        length = state.tracked if self.rules.spare else state.extend_end
        if self.caching and length:
            self._publish(state, length)
        self._give_back(state)

    def _give_back(self, state: SglangState) -> None:
        super()._give_back(state)
        self._give_slots(cast(RecurrentState, state))
        cast(RecurrentState, state).tracked = 0

    def check(self) -> None:
        """As the base class, and that nobody has slots who has no tokens."""
        super().check()
        assert self.free_slots >= 0
        assert self.slots_held == sum(cast(RecurrentState, state).slots for state in self.holders())
