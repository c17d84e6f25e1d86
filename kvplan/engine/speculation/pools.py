"""Drafts where prompts are computed on other instances than answers (``disaggregation``).

Both pools have the drafter, as vLLM's NIXL connector wants the same layers on both sides.

- A prefill instance keeps places for drafts and computes the last block of a hit again, as every engine that
  drafts. One token is asked of it, so none of its drafts could ever be verified, and it makes none: its
  drafter only fills its cache, which is part of what is sent.
- Prediction layers that draft in turns would make drafts of drafts from the last tokens of a prompt: a
  prefill instance is not asked for these, and the decode instance computes them (NIXL's
  ``_prefill_backoff``).
- Above several cache groups blocks are numbered, as ``disaggregation.grouped`` says; look-ups of a prefill
  instance know the blocks of a prompt as it was before it was cut.
- On a decode instance a request's first step computes the last token of the prompt again and has no drafts
  but placeholders (``loading``); from then on it goes as on one engine.
"""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.cargo import Sizes
from kvplan.engine.disaggregation.decode import DecodeEvents, DecodeReplica, DecodeScheduler
from kvplan.engine.disaggregation.engine import DisaggregatedEngine
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.grouped import GroupedDecodeScheduler, GroupedPrefillScheduler
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.instance import PoolReplica
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.pool import Pool, Ranks
from kvplan.engine.disaggregation.prefill import PrefillEvents, PrefillReplica, PrefillScheduler
from kvplan.engine.disaggregation.ranks import DecodeRanks, Make, PrefillRanks
from kvplan.engine.instance import one_full_group
from kvplan.engine.lockstep.drafted import DraftsTogether
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder, Totals
from kvplan.engine.remote.scheduler import RemoteScheduler
from kvplan.engine.remote.source import KvSource
from kvplan.engine.speculation.drafted import Drafted
from kvplan.engine.speculation.loading import DraftRemoteScheduler, Loading
from kvplan.engine.speculation.metrics import SECTION, metrics
from kvplan.engine.speculation.numbered import DraftNumberedLoads, DraftNumberedScheduler
from kvplan.engine.speculation.replica import Verifying
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.scheduler import DraftScheduler, HybridDraftScheduler
from kvplan.engine.speculation.strategy import Speculation
from kvplan.errors import UsageError
from kvplan.traces.request import Request


class DraftPrefillScheduler(PrefillScheduler, DraftScheduler):
    """Finished requests keep their blocks, with those for drafts that nobody made, until ``release``."""

    def __init__(
        self, config: EngineConfig, handover: Handover, drafts: Speculation, *, keep_schedule: bool
    ) -> None:
        DraftScheduler.__init__(self, config, drafts.rules, drafts.acceptance, keep_schedule=keep_schedule)
        self.hold(handover)


class DraftPoolReplica(Verifying, PoolReplica):
    """One scheduler of a pool that has the drafter."""

    def refusal(self, request: Request) -> str | None:
        """As the base class; drafts have their places, too."""
        return super().refusal(request) or self.overflow(request)

    def rejection(self, request: Request) -> str | None:
        """As of every instance of a pool: the engine has looked at it."""
        return None


class DraftPrefillReplica(DraftPoolReplica, PrefillReplica):
    """One instance of a prefill pool that has the drafter."""

    kind: type[DraftPrefillScheduler | DraftGroupedPrefillScheduler] = DraftPrefillScheduler

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        events: PrefillEvents,
        drafts: Speculation,
        *,
        layers: bool,
        handover: Handover,
    ) -> None:
        self.drafts = drafts
        super().__init__(config, latency, recorder, events, layers=layers, handover=handover)

    def make_scheduler(self) -> PrefillScheduler:
        """See the base class."""
        kept = self.layers or self.logging
        scheduler = self.kind(self.config, self.handover, self.drafts, keep_schedule=kept)
        self.drafting = scheduler
        return scheduler


class DraftDecodeScheduler(DecodeScheduler, DraftRemoteScheduler):
    """Every request that is new here waits for its KV; from then on it has drafts."""

    def __init__(
        self,
        config: EngineConfig,
        source: KvSource,
        totals: Totals,
        drafts: Speculation,
        *,
        keep_schedule: bool,
    ) -> None:
        DraftRemoteScheduler.__init__(
            self, config, source, drafts.rules, drafts.acceptance, keep_schedule=keep_schedule
        )
        self.count(totals)


class DraftDecodeReplica(DraftPoolReplica, Loading, DecodeReplica):
    """One instance of a decode pool that verifies drafts."""

    kind: type[DraftDecodeScheduler | DraftGroupedDecodeScheduler] = DraftDecodeScheduler

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        events: DecodeEvents,
        drafts: Speculation,
    ) -> None:
        self.drafts = drafts
        super().__init__(config, latency, recorder, events)

    def make_scheduler(self) -> RemoteScheduler:
        """See the base class."""
        scheduler = self.kind(
            self.config, self, self.recorder.totals, self.drafts, keep_schedule=self.logging
        )
        self.decode = scheduler
        self.drafting = scheduler
        return scheduler

    def known_tokens(self, request: Request) -> int:
        """See the base class: prompts come once, and before their answers."""
        return request.prompt_tokens


class DraftGroupedPrefillScheduler(GroupedPrefillScheduler, DraftNumberedScheduler):
    """The same above several cache groups."""

    def __init__(
        self, config: EngineConfig, handover: Handover, drafts: Speculation, *, keep_schedule: bool
    ) -> None:
        HybridDraftScheduler.__init__(
            self, config, drafts.rules, drafts.acceptance, keep_schedule=keep_schedule
        )
        self.hold(handover)


class DraftGroupedPrefillReplica(DraftPrefillReplica):
    """One instance of a prefill pool that has the drafter."""

    kind = DraftGroupedPrefillScheduler


class DraftGroupedDecodeScheduler(GroupedDecodeScheduler, DraftNumberedLoads):
    """The same above several cache groups."""

    def __init__(
        self,
        config: EngineConfig,
        source: KvSource,
        totals: Totals,
        drafts: Speculation,
        *,
        keep_schedule: bool,
    ) -> None:
        HybridDraftScheduler.__init__(
            self, config, drafts.rules, drafts.acceptance, keep_schedule=keep_schedule
        )
        self.connect(source)
        self.count(totals)


class DraftGroupedDecodeReplica(DraftDecodeReplica):
    """One instance of a decode pool that verifies drafts."""

    kind = DraftGroupedDecodeScheduler


class DraftPrefillRanks(DraftsTogether, PrefillRanks):
    """An instance of a prefill pool that has ranks with the drafter."""

    def __init__(
        self, rules: DraftRules, pool: Pool, ranks: Ranks, recorder: Recorder, make: Make[PrefillReplica]
    ) -> None:
        self.rules = rules
        PrefillRanks.__init__(self, pool, ranks, recorder, make)


class DraftDecodeRanks(DraftsTogether, DecodeRanks):
    """An instance of a decode pool that has ranks which verify drafts."""

    def __init__(
        self, rules: DraftRules, pool: Pool, ranks: Ranks, recorder: Recorder, make: Make[DecodeReplica]
    ) -> None:
        self.rules = rules
        DecodeRanks.__init__(self, pool, ranks, recorder, make)


class DraftingPools(DisaggregatedEngine):
    """A ``DisaggregatedEngine`` both of whose pools have the drafter; those of decode verify.

    Args:
        drafts: as on one engine; the others as of ``DisaggregatedEngine``.

    Raises:
        UsageError: drafts do not go with the options of a pool.
    """

    def __init__(
        self,
        drafts: Speculation,
        prefill: Pool,
        decode: Pool,
        recorder: Recorder,
        *,
        route: tuple[Stage, ...],
        layers: int,
        sizes: Sizes,
        first_token: FirstToken,
        handover: Handover = Handover.KEPT,
    ) -> None:
        self.drafts = drafts.with_connector()
        if self.left_to_decode(prefill.options) and first_token is FirstToken.PREFILL:
            raise UsageError(
                "prefill instances have no first token to give where prediction layers draft in turns: vLLM "
                "leaves the last tokens of a prompt to the decode instance then",
                where="disaggregation.first_token",
                hint="use decode, or 1 for speculative.tokens",
            )
        for pool in (prefill, decode):
            pool.config = self.drafts.fitted(pool.options)
        super().__init__(
            prefill, decode, recorder, route=route, layers=layers, sizes=sizes,
            first_token=first_token, handover=handover,
        )  # fmt: skip

    def left_to_decode(self, config: EngineConfig) -> int:
        """As the base class; modules that draft in turns would make drafts of drafts at a prompt's end."""
        return max(super().left_to_decode(config), self.drafts.rules.prompt_lookahead - 1)

    def make_prefill(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> PrefillReplica:
        """See the base class."""
        kind = DraftPrefillReplica if one_full_group(config) else DraftGroupedPrefillReplica
        return kind(
            config, latency, recorder, self, self.drafts, layers=bool(self.layers), handover=self.handover
        )

    def make_decode(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> DecodeReplica:
        """See the base class."""
        kind = DraftDecodeReplica if one_full_group(config) else DraftGroupedDecodeReplica
        return kind(config, latency, recorder, self, self.drafts)

    def prefill_ranks(self, pool: Pool, ranks: Ranks, recorder: Recorder) -> PrefillRanks:
        """See the base class."""
        return DraftPrefillRanks(self.drafts.rules, pool, ranks, recorder, self.make_prefill)

    def decode_ranks(self, pool: Pool, ranks: Ranks, recorder: Recorder) -> DecodeRanks:
        """See the base class."""
        return DraftDecodeRanks(self.drafts.rules, pool, ranks, recorder, self.make_decode)

    def close(self) -> None:
        """As the base class, and report what became of drafts on decode instances."""
        super().close()
        found = Drafted(self.drafts.rules.tokens)
        for decode in (rank for instance in self.decodes for rank in instance.members):
            assert isinstance(decode, DraftDecodeReplica)
            found.add(decode.drafting.drafted)
        self.recorder.sections[SECTION] = metrics(found)
