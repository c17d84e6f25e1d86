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

from typing import TYPE_CHECKING, cast

from kvplan.engine.disaggregation.cargo import Cargo
from kvplan.engine.disaggregation.decode import DecodeReplica, DecodeScheduler
from kvplan.engine.disaggregation.journey import journey_of
from kvplan.engine.disaggregation.prefill import PrefillReplica, PrefillScheduler
from kvplan.engine.live import LiveRequest
from kvplan.engine.numbered.plan import FencedGrantedPlan
from kvplan.engine.numbered.replica import NumberedReplica
from kvplan.engine.numbered.request import NumberedRequest
from kvplan.engine.numbered.scheduler import NumberedLoads, NumberedScheduler
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.reference.pool import NULL_BLOCK

if TYPE_CHECKING:
    from kvplan.engine.replacement.foresight import Foresight


class GroupedPrefillScheduler(PrefillScheduler, NumberedScheduler):
    """Finished requests keep what is left of their blocks until ``release``."""

    def new_plan(self) -> StepPlan:
        """See the base class."""
        return FencedGrantedPlan()


class GroupedPrefillReplica(NumberedReplica, PrefillReplica):
    """One instance of the prefill pool."""

    def make_scheduler(self) -> PrefillScheduler:
        """See the base class."""
        return GroupedPrefillScheduler(self.config, self.handover, keep_schedule=self.layers or self.logging)


class GroupedDecodeScheduler(DecodeScheduler, NumberedLoads):
    """Every request that is new here waits for what its tables lack."""

    _there = 0
    """Tokens that full attention has of the request being looked at."""

    def _match(self, request: LiveRequest) -> Match:
        self._there = 0
        if self._stateful:
            numbered = cast(NumberedRequest, request)
            hit = self.numbered.lookup_apart(numbered)
            if hit is not None:
                self._there = hit.tokens
                if self.fetchable(request, hit.tokens):
                    numbered.shared_prefix_boundary = numbered.state.shared_prefix_boundary = 0
                    return self._take(hit)
        return super()._match(request)

    def fetchable(self, request: LiveRequest, start: int) -> int:
        """See the base class."""
        return super().fetchable(request, max(start, self._there))

    def cargo(self, request: LiveRequest, start: int) -> Cargo:
        """See the base class."""
        key_of = self.numbered.tables.pool.key_of
        there, missing = [0, 0], [0, 0]
        for group, table in zip(self.config.groups, cast(NumberedRequest, request).state.blocks, strict=True):
            for block in table:
                if block != NULL_BLOCK:
                    (missing if key_of[block] is None else there)[group.kind == "mamba"] += 1
        if start >= journey_of(request).sent_tokens:
            missing = [0, 0]
        return Cargo(missing[0], missing[1], there[0], there[1])


class GroupedDecodeReplica(NumberedReplica, DecodeReplica):
    """One instance of the decode pool."""

    def make_scheduler(self, foresight: Foresight | None) -> DecodeScheduler:
        """See the base class."""
        self.decode = GroupedDecodeScheduler(
            self.config, self, self.recorder.totals, keep_schedule=self.logging, foresight=foresight
        )
        return self.decode
