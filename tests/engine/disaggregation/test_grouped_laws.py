"""Prefill and decode pools of several cache groups: one group is one group, prompts are computed as by one engine,
and what is sent follows from what each kind of group looks back at.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from fuzzing import examples, fuzz
from grouped import grouped_cases
from hypothesis import assume, given
from hypothesis import strategies as st
from pools import CLOCK, Line, disaggregations
from workloads import cases, stride_of

import kvplan.engine.disaggregation.engine as engines
import kvplan.engine.speculation.pools as drafting
from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.disaggregation.engine import DisaggregatedEngine
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.grouped import GroupedDecodeReplica, GroupedPrefillReplica
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.journey import Journey
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.errors import EngineStuck
from kvplan.engine.hybrid.replica import HybridReplica
from kvplan.engine.instance import one_full_group, simulated_in_segments
from kvplan.engine.live import LiveRequest
from kvplan.engine.numbered.scheduler import NumberedScheduler
from kvplan.engine.plan import StepPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation
from kvplan.traces.request import Request

BLOCK, STATE = 1000, 1
"""Bytes: what moved is so many thousand blocks, and the rest states."""


def audit(replica: Replica, holders: list[LiveRequest]) -> None:
    assert isinstance(replica.scheduler, NumberedScheduler)
    cache = replica.scheduler.numbered
    cache.tables.pool.check(table for request in holders for table in request.state.blocks)  # type: ignore[attr-defined]
    pool = cache.pool
    assert (pool.blank + pool.cached, pool.cached) == (
        cache.tables.pool.free_blocks, cache.tables.pool.published_free,
    )  # fmt: skip


class AuditedPrefill(GroupedPrefillReplica):
    """Checks its books with every delivery and release."""

    def _audit(self) -> None:
        audit(self, [*self.scheduler.running, *self.scheduler.held])

    def deliver(self, plan: StepPlan, clock: float) -> None:
        self._audit()
        super().deliver(plan, clock)
        self._audit()

    def release(self, request: LiveRequest) -> None:
        super().release(request)
        self._audit()


class AuditedDecode(GroupedDecodeReplica):
    """Checks its books with every delivery."""

    def deliver(self, plan: StepPlan, clock: float) -> None:
        holders = partial(lambda: [*self.scheduler.running, *self.scheduler.queue.holders])
        audit(self, holders())
        super().deliver(plan, clock)
        audit(self, holders())


def play(
    strategy: Disaggregation, config: EngineConfig, requests: list[Request], *, log: bool = False
) -> tuple[list[RequestRow], list[str], Recorder, DisaggregatedEngine]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride_of(requests)
    engine = strategy.engine(config, CLOCK, recorder)
    engine.run(requests)
    engine.close()
    return rows, lines, recorder, engine


def link(rate: float = 1e6, latency_s: float = 1e-3) -> tuple[Stage, ...]:
    return (Stage("link", Line(rate, latency_s), prefill=True, decode=True, link=True),)


def metric(recorder: Recorder, name: str) -> float:
    return next(item.value for item in recorder.sections["disaggregation"] if item.name == name)  # type: ignore[return-value]


@fuzz(60)
@given(st.data())
def test_one_group_is_one_group(data: st.DataObject) -> None:
    config, requests = data.draw(cases())
    strategy = data.draw(disaggregations(config))
    told = []
    for kinds in (one_full_group, lambda config: False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engines, "one_full_group", kinds)
            try:
                rows, lines, recorder, _ = play(strategy, config, requests, log=True)
            except EngineStuck as exc:
                told.append((exc.message,))
                continue
            told.append((rows, lines, recorder.totals.to_dict(), recorder.sections["disaggregation"]))
    assert told[0] == told[1]


@fuzz(40)
@given(st.data())
def test_one_group_is_one_group_with_drafts(data: st.DataObject) -> None:
    config, requests = data.draw(cases())
    config = replace(config, num_blocks=config.num_blocks + 60, max_num_batched_tokens=64)
    config = replace(config, max_model_len=min(config.max_model_len, 60), long_prefill_token_threshold=0)
    tokens = data.draw(st.integers(1, 3))
    rules = DraftRules(tokens, lookahead=tokens, hash_lookahead=1)
    drafts = Speculation(rules, Acceptance((0.6,) * tokens, data.draw(st.integers(0, 9))))
    strategy = Disaggregation(link(), BLOCK, PoolPlan(2), PoolPlan(2), drafts=drafts)
    told = []
    for kinds in (one_full_group, lambda config: False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drafting, "one_full_group", kinds)
            try:
                rows, lines, recorder, _ = play(strategy, config, requests, log=True)
            except EngineStuck as exc:
                told.append((exc.message,))
                continue
            told.append((rows, lines, recorder.totals.to_dict(), recorder.sections))
    assert told[0] == told[1]


@examples(60)
@given(grouped_cases(), st.sampled_from(list(Handover)))
def test_every_request_gets_through(case: tuple[EngineConfig, list[Request]], handover: Handover) -> None:
    config, requests = case
    least = 2 + sum(-(-config.max_model_len // group.block_size) + 2 for group in config.groups)
    config = replace(config, num_blocks=least, watermark=0.0)
    assume(not one_full_group(config))
    strategy = Disaggregation(link(), BLOCK, PoolPlan(2), PoolPlan(2), handover=handover, state_bytes=STATE)
    told = []
    for prefill, decode, log in (
        (AuditedPrefill, AuditedDecode, True), (GroupedPrefillReplica, GroupedDecodeReplica, False),
    ):  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engines, "GroupedPrefillReplica", prefill)
            patch.setattr(engines, "GroupedDecodeReplica", decode)
            try:
                rows, _, recorder, engine = play(strategy, config, requests, log=log)
            except EngineStuck:
                assert config.policy == "priority" or not config.scheduler_reserve_full_isl
                return
        totals = recorder.totals
        assert totals.requests == len(requests) == totals.finished + totals.rejected
        for row in rows:
            assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
        for replica in (*engine.prefills, *engine.decodes):
            assert replica.scheduler.free_blocks == replica.config.usable_blocks
        told.append((rows, totals.to_dict(), recorder.series, recorder.sections["disaggregation"]))
    assert told[0] == told[1], "steps taken in bulk are steps taken one by one"


@examples(60)
@given(grouped_cases())
def test_prompts_are_computed_as_by_an_engine_that_is_asked_for_one_token(
    case: tuple[EngineConfig, list[Request]],
) -> None:
    """All but the last token of them where there are states; the engine is another one, in segments."""
    config, requests = case
    config = replace(config, num_blocks=5000, scheduler_reserve_full_isl=False)
    assume(not one_full_group(config) and simulated_in_segments(config))
    left = int(any(group.kind == "mamba" for group in config.groups))
    served = [item for item in requests if item.prompt_tokens + item.output_tokens <= config.max_model_len]
    split, _, _, _ = play(Disaggregation(link(1e5, 0.01), BLOCK), config, served)
    asked = [Journey(item, 0, left).before() for item in served]
    rows: list[RequestRow] = []
    HybridReplica(config, CLOCK, Recorder(on_request=rows.append)).run(asked)
    expected = {row.id: (row.scheduled_s, row.cached_tokens) for row in rows}
    assert {row.id: (row.scheduled_s, row.cached_tokens) for row in split} == expected


@examples(80)
@given(st.integers(1, 300), st.sampled_from([1, 4, 16]), st.integers(1, 90), st.integers(1, 6), st.booleans())
def test_what_is_sent_of_a_lone_prompt(
    tokens: int, size: int, window: int, chunk: int, caching: bool
) -> None:
    """Of full attention all blocks, of windows and chunks those that the next token looks at, and a state."""
    groups = (
        CacheGroup("full", size), CacheGroup("sliding", size, window), CacheGroup("chunked", size, chunk * size),
    )  # fmt: skip
    config = EngineConfig(num_blocks=2000, max_model_len=400, enable_prefix_caching=caching, groups=groups)
    strategy = Disaggregation(link(), BLOCK, state_bytes=STATE)
    request = Request("r", 0.0, ((0, tokens),), tokens, ((10**6, 3),), 3)
    _, _, recorder, _ = play(strategy, config, [request])
    whole = -(-tokens // size)
    behind = max(tokens - window + 1, 0) // size
    done = tokens // (chunk * size) * chunk
    assert metric(recorder, "moved_bytes") == BLOCK * (whole + whole - behind + whole - done)

    states = replace(config, groups=(CacheGroup("full", size), *[CacheGroup("mamba", size)] * 3))
    _, _, recorder, _ = play(strategy, states, [request])
    sent = max(tokens - 1, 1)
    assert metric(recorder, "moved_bytes") == BLOCK * -(-sent // size) + 3 * STATE


def test_a_prompt_of_which_full_attention_has_all_needs_no_state() -> None:
    """The decode instance computed it before; its state for the last boundary is still there, or is not."""
    groups = (CacheGroup("full", 4), CacheGroup("mamba", 4))
    config = EngineConfig(num_blocks=400, max_model_len=200, groups=groups)
    strategy = Disaggregation(link(), BLOCK, state_bytes=STATE)
    first = Request("a", 0.0, ((0, 41),), 41, ((10**6, 9),), 9)
    again = Request("b", 5.0, ((0, 41),), 41, ((2 * 10**6, 3),), 3)
    longer = Request("c", 9.0, ((0, 37), (5000, 40)), 77, ((3 * 10**6, 3),), 3)
    rows, _, recorder, _ = play(strategy, config, [first, again, longer])
    assert len(rows) == 3
    # Ten blocks and a state, then nothing, then what is behind the nine that both have.
    assert metric(recorder, "moved_bytes") == BLOCK * (10 + 0 + 10) + 2 * STATE
    assert metric(recorder, "kept_bytes") >= BLOCK * (10 + 9)
