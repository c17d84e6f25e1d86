"""The device's cache of several groups, in numbered blocks, of requests with drafts."""

from __future__ import annotations

from typing import cast

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.hybrid.group import Hit
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.numbered.cache import NumberedCache, WatchedCache
from kvplan.engine.numbered.request import NumberedRequest
from kvplan.engine.offloading.grouped.cache import HandingCache
from kvplan.engine.reference.groups import GroupManager
from kvplan.engine.speculation.grouped.request import NumberedDraftedRequest
from kvplan.engine.speculation.grouped.states import DraftedRunningState, DraftedStates, HandedDraftedStates
from kvplan.engine.speculation.grouped.tails import PromptTails
from kvplan.engine.speculation.grouped.windows import KeptWindow
from kvplan.engine.speculation.rules import DraftRules


class _DraftTables(WatchedCache):
    kept_states: type[DraftedStates] = DraftedStates

    def __init__(self, config: EngineConfig, drafts: int, kept: int) -> None:
        self.drafts = drafts
        self.kept = kept
        super().__init__(config)

    def _manager(self, index: int, group: CacheGroup) -> GroupManager:
        if group.kind == "full":
            return PromptTails(index, group, self.shared)
        if group.kind == "sliding":
            return KeptWindow(index, group, self.shared, self.kept)
        if group.kind == "mamba":
            kind = self.kept_states if self.config.enable_prefix_caching else DraftedRunningState
            return kind(index, group, self.shared, self.drafts)
        return super()._manager(index, group)


class _HandingDraftTables(_DraftTables):
    kept_states = HandedDraftedStates


class DraftNumberedCache(NumberedCache):
    """See the package."""

    tables_of: type[_DraftTables] = _DraftTables

    def __init__(self, config: EngineConfig, rules: DraftRules) -> None:
        self.rules = rules
        self.kept = rules.prompt_lookahead - 1
        super().__init__(config)

    def make_tables(self) -> WatchedCache:
        """As the base class, with a state for every draft."""
        return self.tables_of(self.config, self.rules.tokens, self.kept)

    def needed(
        self, request: HybridRequest, covered: int, hit: Hit | None, computed: int, *, admission: bool
    ) -> int:
        """As the base class; states have places up to the request's ``reach``, or for all that it knows."""
        drafted = cast(NumberedDraftedRequest, request)
        drafted.state.reach = drafted.num_tokens if admission else drafted.reach
        return super().needed(request, covered, hit, computed, admission=admission)

    def _grow(self, request: NumberedRequest, covered: int) -> None:
        drafted = cast(NumberedDraftedRequest, request)
        drafted.state.reach = drafted.reach
        super()._grow(request, covered)

    def publish(self, request: HybridRequest, tokens: int) -> bool:
        """As the base class, group by group: those that will not use the last block found have one more."""
        numbered, news = cast(NumberedRequest, request), False
        for manager in self._managers:
            published = numbered.state.num_published
            before = published[manager.index]
            manager.publish(numbered.state, self._findable(manager, tokens))
            news |= published[manager.index] > before
        if news:
            self.published(numbered)
        return news

    def _findable(self, manager: GroupManager, tokens: int) -> int:
        """Of ``tokens`` that are computed, those that a look-up may find in a group, or drop."""
        aligned = tokens - tokens % self.alignment
        if not manager.drops or not aligned:
            return aligned
        # Several modules may compute the last tokens again.
        final = max(tokens - self.kept, 0)
        return min(final, final - final % self.alignment + manager.block_size)


class DraftHandingCache(DraftNumberedCache, HandingCache):
    """The same above a host that states are handed to."""

    tables_of = _HandingDraftTables
