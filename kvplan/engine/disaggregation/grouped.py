"""Instances of models that keep several groups of caches, as vLLM's NIXL connector sends them.

Which blocks are sent follows from their tables, so these have numbers. When a prompt is computed, a window
has given back what lies behind it, and of the states only the last one is left. The decode instance gets
blocks for as much: of full attention for all tokens, of windows and chunks for what the next token looks at,
and one for a state; what it has no content for in them is read.

Where there are states it begins with all that full attention has of a prompt, though the states may have
less, as one comes in any case (``get_computed_blocks_for_connector``). Only where nothing else would have to
come no state does, either: it goes on from where all groups have something.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.config import CacheGroup
from kvplan.engine.disaggregation.cargo import Cargo
from kvplan.engine.disaggregation.decode import DecodeReplica, DecodeScheduler
from kvplan.engine.disaggregation.journey import StageRequest, journey_of
from kvplan.engine.disaggregation.prefill import PrefillReplica, PrefillScheduler
from kvplan.engine.live import LiveRequest
from kvplan.engine.numbered.plan import FencedGrantedPlan
from kvplan.engine.numbered.request import NumberedRequest
from kvplan.engine.numbered.scheduler import NumberedLoads, NumberedScheduler
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.reference.pool import NULL_BLOCK
from kvplan.traces.request import Request


class StatesApart(NumberedScheduler):
    """One whose look-ups ask full attention by itself where there are states."""

    _there = 0
    """Tokens that full attention has of the request being looked at."""

    def _match(self, request: LiveRequest) -> Match:
        self._there = 0
        if self._stateful:
            numbered = cast(NumberedRequest, request)
            hit = self.numbered.lookup_apart(numbered)
            if hit is not None:
                self._there = hit.tokens
                if not hit.lags or self.is_sent(request, hit.tokens):
                    numbered.shared_prefix_boundary = numbered.state.shared_prefix_boundary = 0
                    return self._take(hit)
        return super()._match(request)

    def is_sent(self, request: LiveRequest, start: int) -> bool:
        """Whether something comes for a request that has its first ``start`` tokens."""
        return False


class GroupedPrefillScheduler(PrefillScheduler, StatesApart):
    """Finished requests keep what is left of their blocks until ``release``."""

    def live(self, request: Request) -> LiveRequest:
        """See the base class; the connector cuts a prompt whose blocks have been hashed already."""
        live = super().live(request)
        if isinstance(request, StageRequest):
            cast(NumberedRequest, live).state.cut_from(request.journey.request.prompt)
        return live

    def new_plan(self) -> StepPlan:
        """See the base class."""
        return FencedGrantedPlan()


class GroupedPrefillReplica(PrefillReplica):
    """One instance of the prefill pool."""

    def make_scheduler(self) -> PrefillScheduler:
        """See the base class."""
        return GroupedPrefillScheduler(self.config, self.handover, keep_schedule=self.layers or self.logging)


class GroupedDecodeScheduler(DecodeScheduler, NumberedLoads, StatesApart):
    """Every request that is new here waits for what its tables lack."""

    def is_sent(self, request: LiveRequest, start: int) -> bool:
        """See the base class."""
        return self.fetchable(request, start) > 0

    def fetchable(self, request: LiveRequest, start: int) -> int:
        """See the base class."""
        return super().fetchable(request, max(start, self._there))

    def cargo(self, request: LiveRequest, start: int) -> Cargo:
        """See the base class."""
        key_of = self.numbered.tables.pool.key_of
        there, missing = [0, 0], [0, 0]
        for group, table in zip(self.config.groups, cast(NumberedRequest, request).state.blocks, strict=True):
            held = sum(block != NULL_BLOCK for block in table)
            blank = sum(block != NULL_BLOCK and key_of[block] is None for block in table)
            there[group.kind == "mamba"] += held - blank
            missing[group.kind == "mamba"] += min(blank, _most_sent(group, held))
        if start >= journey_of(request).sent_tokens:
            missing = [0, 0]
        return Cargo(missing[0], missing[1], there[0], there[1])


def _most_sent(group: CacheGroup, held: int) -> int:
    """Of the blocks that a request holds of a group, those that are read at most.

    As ``get_exchange_clipped_blocks`` has it: neither what is kept before a window for modules that draft nor
    places for the states of drafts.
    """
    if group.kind == "mamba":
        return 1
    return -(-group.window // group.block_size) + 1 if group.kind == "sliding" else held


class GroupedDecodeReplica(DecodeReplica):
    """One instance of the decode pool."""

    def make_scheduler(self) -> DecodeScheduler:
        """See the base class."""
        self.decode = GroupedDecodeScheduler(
            self.config, self, self.recorder.totals, keep_schedule=self.logging
        )
        return self.decode
