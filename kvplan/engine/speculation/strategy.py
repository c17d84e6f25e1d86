"""What a scenario can ask for about drafts, and what it does not go with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.instance import one_full_group, simulated_in_segments
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.replica import DraftReplica
from kvplan.engine.speculation.rules import DraftRules
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig
    from kvplan.engine.sglang_states.rules import StateRules
    from kvplan.engine.sglang_windows.windows import SlidingWindows
    from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica


@dataclass(frozen=True, slots=True)
class Speculation:
    """Drafts for every request that decodes.

    Attributes:
        rules: what the way of drafting asks of scheduler and cache.
        acceptance: how many drafts stand; it has a rate for each of a step.
        states, windows: of the pool that SGLang has beside that of tokens, where it has one.
    """

    behind_router: ClassVar[bool] = True
    asks_once: ClassVar[bool] = True
    one_by_one: ClassVar[bool] = True
    rules: DraftRules
    acceptance: Acceptance
    states: StateRules | None = None
    windows: SlidingWindows | None = None

    def __post_init__(self) -> None:
        if len(self.acceptance.rates) != self.rules.tokens:
            raise UsageError(
                f"{len(self.acceptance.rates)} acceptance rates for {self.rules.tokens} drafts",
                where="speculative.acceptance",
                hint="give one for each draft of a step",
            )

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "speculative"

    def with_connector(self) -> Speculation:
        """The same beside a KV connector."""
        return replace(self, rules=self.rules.with_connector())

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> DraftReplica:
        """One engine whose requests have drafts.

        Raises:
            UsageError: as ``fitted``; there are several groups before vLLM 0.33, or full attention in blocks
                of several sizes.
        """
        self._check_version(config)
        config = self.fitted(config)
        if not simulated_in_segments(config):
            raise UsageError(
                "speculative decoding is not simulated with full attention in blocks of several sizes",
                where="cache.groups",
                hint="use another model, or --set 'cache.groups=[{kind: full}]'",
            )
        return DraftReplica(config, latency, recorder, rules=self.rules, acceptance=self.acceptance)

    def beside_connector(self, config: EngineConfig) -> tuple[Speculation, EngineConfig]:
        """The same beside a KV connector, and the options of such an engine.

        Raises:
            UsageError: as ``fitted``; there are several groups before vLLM 0.33.
        """
        self._check_version(config)
        beside = self.with_connector()
        return beside, beside.fitted(config)

    def _check_version(self, config: EngineConfig) -> None:
        if self.rules.drops_block and not one_full_group(config):
            raise UsageError(
                "which prefixes drafting layers find in several cache groups is simulated from vLLM 0.33 on",
                where="engine.version",
                hint="use 0.33, or another speculative.method",
            )

    def fitted(self, config: EngineConfig) -> EngineConfig:
        """The options of an engine that drafts: what vLLM makes of ``config``.

        Raises:
            UsageError: another eviction than vLLM's, a step has no room for drafts, or no group for those who
                make them.
        """
        if config.eviction != "lru":
            raise UsageError(
                f"speculative decoding is simulated with vLLM's own eviction, lru, not {config.eviction}",
                where="cache.eviction",
            )
        unlike = next((group.kind for group in config.groups if group.kind in ("mamba", "chunked")), None)
        if self.rules.prompt_lookahead > 1 and unlike is not None:
            raise UsageError(
                "several modules that draft are simulated with full attention and windows, not with "
                f"{'recurrent states' if unlike == 'mamba' else 'local chunks'}",
                where="speculative.tokens",
                hint="use 1",
            )
        if config.enable_prefix_caching and config.hit_alignment < self.rules.prompt_lookahead:
            raise UsageError(
                f"{self.rules.prompt_lookahead} modules that draft need blocks of as many tokens to find "
                f"prefixes, not {config.hit_alignment}; vLLM does not start either",
                where="cache.block_size",
                hint="larger blocks, fewer speculative.tokens, or cache.prefix none",
            )
        least = 1 + self.rules.tokens
        if config.max_num_batched_tokens < least + self.rules.slots:
            raise UsageError(
                f"steps of {config.max_num_batched_tokens} tokens do not hold the {least} of one request",
                where="engine.max_num_batched_tokens",
            )
        if 0 < config.long_prefill_token_threshold < least:
            raise UsageError(
                f"a threshold of {config.long_prefill_token_threshold} tokens cuts drafts off; vLLM itself "
                "stops at that",
                where="engine.long_prefill_token_threshold",
                hint=f"0 is none; else at least {least}",
            )
        if not self.rules.ahead:
            config = replace(config, async_scheduling=False)
        return replace(config, groups=self._marked(config.groups))

    def _marked(self, groups: Sequence[CacheGroup]) -> tuple[CacheGroup, ...]:
        """Groups, marked where the last block of a hit is not used.

        A layout that nobody said who drafts in has the drafter in its first group of full attention.

        Raises:
            UsageError: it has none, or the drafter's layers have local chunks.
        """
        marks = [self.rules.drops_block and group.drafts for group in groups]
        if self.rules.drops_block and not any(marks):
            full = next((place for place, group in enumerate(groups) if group.kind == "full"), None)
            if full is None:
                raise UsageError(
                    "drafting layers need a cache group of full attention, and there is none",
                    where="cache.groups",
                    hint="add {kind: full}, or use another speculative.method",
                )
            marks[full] = True
        chunked = any(mark and group.kind == "chunked" for mark, group in zip(marks, groups, strict=True))
        if chunked:
            raise UsageError(
                "layers that draft with local chunks are not looked up beside a connector; vLLM stops there",
                where="cache.groups",
                hint="use another speculative.model, or leave the connector out",
            )
        return tuple(replace(group, drafts=mark) for mark, group in zip(marks, groups, strict=True))

    def unmixed(self, config: SglangConfig) -> SglangConfig:
        """The options of an SGLang engine that drafts: no mixed chunks where no EAGLE does."""
        if config.enable_mixed_chunk and not self.rules.hash_lookahead:
            return replace(config, enable_mixed_chunk=False)
        return config

    def check_states(self, config: SglangConfig) -> None:
        """Refuse drafts that pass more than one of the recurrent states that are kept.

        Raises:
            UsageError: states are kept more often than a step goes on.
        """
        states, step = self.states, 1 + self.rules.tokens
        if states is not None and states.spares(config) and states.interval < step:
            raise UsageError(
                f"a step of {step} tokens may pass more than one of the states that are kept every "
                f"{states.interval} tokens; SGLang does not start either",
                where="speculative.tokens",
                hint=f"use {states.interval - 1} at most",
            )

    def sglang_engine(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder
    ) -> DraftedSglangReplica:
        """One SGLang engine whose requests have drafts; ``rules`` are those of SGLang.

        Raises:
            UsageError: see ``StateRules.check`` and ``SlidingWindows.check``; there are both of these, or
                states are kept more often than a step goes on.
        """
        rules, acceptance = self.rules, self.acceptance
        config = self.unmixed(config)
        if self.states is not None and self.windows is not None:
            raise UsageError(
                "drafts are not simulated above pools for windows and for recurrent states at once",
                where="speculative",
                hint="leave speculative out",
            )
        if self.states is not None:
            from kvplan.engine.speculation.sglang.states import DraftedStateReplica

            self.states.check(config)
            self.check_states(config)
            return DraftedStateReplica(
                config, latency, recorder, rules=rules, acceptance=acceptance, states=self.states
            )
        if self.windows is not None:
            from kvplan.engine.speculation.sglang.windows import DraftedWindowReplica

            self.windows.check(config)
            return DraftedWindowReplica(
                config, latency, recorder, rules=rules, acceptance=acceptance, windows=self.windows
            )
        from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica

        return DraftedSglangReplica(config, latency, recorder, rules=rules, acceptance=acceptance)
